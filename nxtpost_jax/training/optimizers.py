"""Optimizers by one word, with the schedule that the experiments train by."""

from __future__ import annotations

import functools
import importlib
from typing import Literal, get_args

import optax

Word = Literal["adamw", "shampoo"]
Optimizer = optax.GradientTransformation | Word
PEAKS: dict[str, float] = {"adamw": 2e-3, "shampoo": 2e-3}

_ADAMW = optax.adamw(PEAKS["adamw"])  # one object: recommenders that share it share compiled steps


def checked(tx: Optimizer | None) -> Optimizer:
    """Give AdamW at 2e-3 where the caller gives none.

    Raises:
      ValueError: it is neither an optax transformation nor one of the words.
    """
    if tx is None:
        return _ADAMW
    word = isinstance(tx, str) and tx in get_args(Word)
    if not word and not isinstance(tx, optax.GradientTransformation):
        words = " or ".join(map(repr, get_args(Word)))
        raise ValueError(
            f"tx: expected an optax transformation such as optax.adam(1e-3), or {words}, "
            f"found {tx!r:.60}"
        )
    return tx


def made(tx: Optimizer, *, epochs: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """Make the optimizer of a word, at its peak rate; another one passes as it is."""
    if isinstance(tx, str):
        return warmed_up(tx, peak=PEAKS[tx], epochs=epochs, steps_per_epoch=steps_per_epoch)
    return tx


@functools.lru_cache(maxsize=32)
def warmed_up(
    word: Word,
    *,
    peak: float,
    epochs: int,
    steps_per_epoch: int,
    schedule: Literal["constant", "cosine"] = "constant",
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Build an optimizer whose rate rises for an epoch, then is constant or falls to 0.

    A constant rate leaves the number of epochs open, which validation decides. The same arguments
    give the same object, so that its steps are compiled once.

    Args:
      word: "adamw", or "shampoo" of shampoo_jax, which is imported here and not before.
      peak: the highest rate.
      epochs: until a cosine is at 0.
      steps_per_epoch: steps of an epoch.
      schedule: "constant" or "cosine".
      weight_decay: decoupled.
    """
    start, total = peak / steps_per_epoch, epochs * steps_per_epoch
    if schedule == "constant" or epochs == 1:
        rate = optax.linear_schedule(start, peak, steps_per_epoch)
    else:
        rate = optax.warmup_cosine_decay_schedule(start, peak, steps_per_epoch, total)
    make = optax.adamw if word == "adamw" else importlib.import_module("shampoo_jax").shampoo
    return make(rate, b1=0.9, b2=0.95, weight_decay=weight_decay)
