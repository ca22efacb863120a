"""Problems for timing a whole training step: forward, backward and update.

`transformer`: next-character prediction, width 256, 4 layers, 64 rows of 64 characters = 4,096
tokens. `sequences`: NxtPost by ids, width 64, 2 layers, histories of 200, 3,706 items, 128 rows
and 256 shared negatives. Data are drawn: only the time matters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nxtpost_jax
from experiments.loop.train_step import InitParams, Loss
from experiments.models.character_model import CharacterModel
from nxtpost_jax import NxtPost, NxtPostConfig


class Problem(NamedTuple):
    """What a training step needs beside an optimizer."""

    init_params: InitParams
    loss: Loss
    batch: Mapping[str, Any]


def transformer(*, width: int = 256, layers: int = 4, rows: int = 64) -> Problem:
    """Predict drawn characters."""
    model = CharacterModel(65, width=width, layers=layers)
    characters = np.random.default_rng(0).integers(0, 65, (rows, model.length + 1), np.int32)
    batch = {"inputs": characters[:, :-1], "labels": characters[:, 1:]}

    def loss(params, batch, key):
        del key
        logits = cast(jax.Array, model.apply(params, batch["inputs"]))
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        return jnp.mean(entropy), {}

    return Problem(lambda key: model.init(key, batch["inputs"][:1]), loss, batch)


def sequences(*, items: int = 3706, length: int = 200, rows: int = 128) -> Problem:
    """Recommend the next of drawn items."""
    config = NxtPostConfig(d_model=64, max_len=length, block="transformer", id_embedding=True)
    model = NxtPost(config, num_items=items)
    events = np.random.default_rng(0).integers(0, items, (rows, length + 1), np.int32)
    batch = {"items": events[:, :-1], "labels": events[:, 1:]}

    def loss(params, batch, key):
        return nxtpost_jax.loss(
            model, params, batch=batch, content=None, key=key, num_negatives=256
        )

    return Problem(lambda key: model.init(key, batch)["params"], loss, batch)


WHOLE_STEPS: dict[str, Callable[[], Problem]] = {
    "transformer_step": transformer,
    "sequences_step": sequences,
}
