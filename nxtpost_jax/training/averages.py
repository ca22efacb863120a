"""An average of the parameters: late steps go to and fro, and their mean is nearer the aim."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

MOST = 0.5  # of the steps so far, their mean age where all weigh alike


class Average(NamedTuple):
    """Hold an average of parameters.

    Attributes:
      params: the average; before the first step, the parameters to begin with.
      seen: int32[], steps in it.
      eta: float32[], by how much late steps weigh more, 0 for not at all.
    """

    params: Any
    seen: jax.Array
    eta: jax.Array


def begun(params: Any, *, share: float) -> Average:
    """Begin an average that has no step yet.

    Args:
      params: copied.
      share: of the steps so far, their mean age in the average: in (0, `MOST`].
    """
    copied = jax.tree.map(jnp.copy, params)
    return Average(copied, jnp.zeros((), jnp.int32), jnp.float32(eta_of(share)))


def eta_of(share: float) -> float:
    """Return by how much late steps weigh more, for a mean age of this share of the steps."""
    return 1 / share - 2


def weight(step: jax.Array, *, eta: float | jax.Array) -> jax.Array:
    """Return the weight of the parameters after step t, (eta + 1) / (t + eta).

    The window grows with the training: it is short while parameters move far, long when they only
    go to and fro. The first step's weight is 1: what the average began with is not in it.

    Source: polynomial-decay averaging, Shamir and Zhang 2013 (arXiv 1212.1824).
    """
    return (eta + 1) / (step + eta)


def moved(average: Average, params: Any) -> Average:
    """Take the parameters after another step in."""
    seen, eta = average.seen + 1, average.eta
    by = weight(seen, eta=eta)

    def nearer(old, new):
        return (old + by * (new - old)).astype(old.dtype)

    return Average(jax.tree.map(nearer, average.params, params), seen, eta)
