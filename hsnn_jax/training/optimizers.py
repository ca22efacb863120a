"""Optimizers by one word."""

import functools
import importlib
from typing import Literal, get_args

import optax

Word = Literal["adamw", "shampoo"]
Transform = optax.GradientTransformation
Optimizer = Transform | Word
PEAKS: dict[str, float] = {"adamw": 1e-3, "shampoo": 2e-3}


def made(tx: Optimizer, *, warmup: int) -> optax.GradientTransformation:
    """Make the optimizer of a word; another one passes as it is.

    Its rate rises for some steps and then stays at its peak: how many steps there are is left to
    validation.

    Args:
      tx: an optax transform; or "adamw"; or "shampoo", of shampoo_jax, which is imported here and
        not before.
      warmup: steps until the rate is at its peak, of `PEAKS`.

    Raises:
      ValueError: it is neither.
    """
    if isinstance(tx, optax.GradientTransformation):
        return tx
    if not isinstance(tx, str) or tx not in get_args(Word):
        words = " or ".join(map(repr, get_args(Word)))
        raise ValueError(
            f"tx: expected an optax transformation such as optax.adam(1e-3), or {words}, "
            f"found {tx!r:.60}"
        )
    return _warmed_up(tx, warmup)


@functools.lru_cache(maxsize=32)  # the same object, so that its steps are compiled once
def _warmed_up(word, warmup):
    rate = optax.linear_schedule(PEAKS[word] / max(warmup, 1), PEAKS[word], warmup)
    make = optax.adamw if word == "adamw" else importlib.import_module("shampoo_jax").shampoo
    return make(rate, b1=0.9, b2=0.95, weight_decay=0.0)
