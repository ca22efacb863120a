"""Next characters of a text, by a causal Transformer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data.characters import Text
from experiments.loop.train_step import Params
from experiments.models.character_model import CharacterModel
from experiments.tasks.learning_task import LearningTask, Score

WINDOWS = 256  # that validation and test are scored on


def character_task(
    text: Text, *, width: int, layers: int, length: int, batch_size: int
) -> LearningTask:
    """Pose the prediction of every character of windows from those before it."""
    model = CharacterModel(text.vocabulary, width=width, layers=layers, length=length)

    def loss(params, batch, key) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        del key
        logits = cast(jax.Array, model.apply(params, batch["inputs"]))
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        return jnp.mean(entropy), {}

    def score(codes: np.ndarray) -> Score:
        starts = np.linspace(0, len(codes) - length - 1, WINDOWS).astype(int)
        held_out = windows(codes, starts, length=length)
        of = jax.jit(lambda params: loss(params, held_out, None)[0])
        return lambda params: {"loss": float(of(params))}

    def batches(first: int, count: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
        for step in range(first, first + count):
            draw = np.random.default_rng((seed, step))
            starts = draw.integers(0, len(text.training) - length, batch_size)
            yield windows(text.training, starts, length=length)

    def init_params(key: jax.Array) -> Params:
        return model.init(key, np.zeros((1, length), np.int32))

    return LearningTask(
        init_params=init_params,
        loss=loss,
        batches=batches,
        validate=score(text.validation),
        test=score(text.test),
        chance=math.log(text.vocabulary),
        figure="",
        intro=f"{text.name.name}, {text.size:,} characters: a causal Transformer of {layers} "
        f"layers and width {width} over {length} characters, {batch_size} windows per step.",
        split="the last twentieth of the text is test, the one before validation",
    )


def windows(codes: np.ndarray, starts: np.ndarray, *, length: int) -> dict[str, np.ndarray]:
    """Cut windows out of codes: inputs and labels int32[B, L], labels one character later."""
    rows = codes[starts[:, None] + np.arange(length + 1)[None, :]]
    return {"inputs": rows[:, :-1], "labels": rows[:, 1:]}
