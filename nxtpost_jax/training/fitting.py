"""Fit both towers: epochs of steps, a validation every so often, the best epoch kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nxtpost_jax.events.batches import train_batches
from nxtpost_jax.events.content import Content
from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.towers.model import NxtPost, count_items
from nxtpost_jax.training import steps
from nxtpost_jax.training.finite import check_losses
from nxtpost_jax.training.negatives import log_popularity
from nxtpost_jax.training.objective import Objective
from nxtpost_jax.training.post_to_post import pretrain

SELECT = "ndcg@10"  # the figure by which epochs are told apart
_ADAMW = optax.adamw(1e-3)  # one object: recommenders that share it share compiled steps


def checked_optimizer(tx: optax.GradientTransformation | None) -> optax.GradientTransformation:
    """Give AdamW at 1e-3 where the caller gives none.

    Raises:
      ValueError: it is something else than an optax transformation.
    """
    if tx is not None and not isinstance(tx, optax.GradientTransformation):
        raise ValueError(
            f"tx: expected an optax transformation such as optax.adam(1e-3), found {tx!r:.60}"
        )
    return _ADAMW if tx is None else tx


def fit(
    model: NxtPost,
    sequences: Sequences,
    *,
    content: Content,
    tx: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    buckets: int,
    objective: Objective,
    pretrain_epochs: int,
    seed: int,
    validate: Callable[[Any], dict[str, float]] | None,
    validate_every: int,
    log: Callable[[dict[str, float]], None] | None,
) -> tuple[Any, list[dict[str, float]]]:
    """Train from newly drawn parameters; arguments as in `Recommender.fit`.

    Args:
      sequences: training events, filtered.
      content: of all items, on the device, or None.
      validate: from parameters to figures, "ndcg@10" among them.

    Returns:
      The parameters, those of the best validated epoch where there is a `validate`, and one
      record per epoch.

    Raises:
      ValueError: an option is out of range.
      FloatingPointError: a loss, a parameter or what they give is NaN or infinite.
    """
    if epochs < 1:
        raise ValueError(f"epochs: expected at least 1, found {epochs}")
    if pretrain_epochs < 0:
        raise ValueError(f"pretrain_epochs: expected at least 0, found {pretrain_epochs}")
    if validate_every < 1:
        raise ValueError(f"validate_every: expected at least 1, found {validate_every}")
    candidates = jnp.asarray(np.unique(sequences.items))
    num_items = count_items(model, content)
    known = {
        "objective": objective,
        "log_popularity": log_popularity(sequences, num_items) if objective.logq else None,
    }
    shapes = {
        "max_len": model.config.max_len,
        "batch_size": batch_size,
        "buckets": buckets,
        "seed": seed,
        "num_labels": objective.num_labels,
    }
    key = jax.random.key(seed)
    first = next(train_batches(sequences, epoch=0, **shapes))
    params, state = steps.init(model, tx, first, content, key)
    if pretrain_epochs:
        with _saying("of pretraining"):
            towers, _ = pretrain(
                model, sequences, content=content, epochs=pretrain_epochs, seed=seed
            )
        params = params | {"post_tower": towers}
    records, best = [], (-np.inf, params)
    for epoch in range(epochs):
        start = time.perf_counter()
        with _saying(f"of epoch {epoch}"):
            params, state, mean_loss = steps.train_epoch(
                model,
                tx,
                params,
                state,
                train_batches(sequences, epoch=epoch, **shapes),
                content,
                jax.random.fold_in(key, epoch),
                candidates,
                **known,
            )
        seconds = time.perf_counter() - start
        records.append({"epoch": epoch, "loss": mean_loss, "seconds": seconds})
        last = epoch == epochs - 1
        if validate is not None and (last or (epoch + 1) % validate_every == 0):
            figures = validate(params)
            records[-1] |= figures
            if figures[SELECT] > best[0]:
                best = figures[SELECT], jax.tree.map(jnp.copy, params)
        if log is not None:
            log(records[-1])
    kept = jax.tree.map(jnp.copy, params) if validate is None else best[1]
    # Finite parameters may still give NaN. The loss of one step more, which is not kept, tells.
    key = jax.random.fold_in(key, epochs)
    _, _, value = steps.step(model, tx, params, state, first, content, key, candidates, **known)
    with _saying("after the last epoch"):
        check_losses(np.array(value)[None])
    return kept, records


@contextlib.contextmanager
def _saying(where: str) -> Iterator[None]:
    try:
        yield
    except FloatingPointError as error:
        raise FloatingPointError(f"{error} {where}; lower the learning rate") from None
