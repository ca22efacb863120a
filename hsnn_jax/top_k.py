"""Exact top k with one rule for ties: the higher score first, then the lower id."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

_LAST = jnp.iinfo(jnp.int32).max


def top_k(scores: ArrayLike, ids: ArrayLike, *, k: int) -> tuple[jax.Array, jax.Array]:
    """Return the k best candidates of each row.

    Args:
      scores: float [B, M]; -inf where a slot holds no candidate.
      ids: int32 [B, M], distinct among the candidates of a row, below 2^31 - 1.
      k: static.

    Returns:
      (ids int32 [B, k], scores [B, k]), best first; -1 and -inf where candidates run out.
    """
    if scores.shape[1] <= k:
        missing = ((0, 0), (0, k - scores.shape[1]))
        scores = jnp.pad(scores, missing, constant_values=-jnp.inf)
        return _in_order(scores, jnp.pad(ids, missing, constant_values=-1))
    values, slots = jax.lax.top_k(scores, k + 1)
    # Without the barriers XLA:CPU merges the slices below into a full sort, 100 times slower;
    # one barrier for both makes it abort under a mesh (jaxlib 0.10.2).
    values = jax.lax.optimization_barrier(values)
    slots = jax.lax.optimization_barrier(slots)
    cut = values[:, k - 1]
    tied = jnp.any((cut == values[:, k]) & (cut > -jnp.inf))
    slots = jax.lax.cond(tied, _resolve_ties, lambda scores, ids, slots: slots, scores, ids, slots)
    slots = slots[:, :k]
    return _in_order(
        jnp.take_along_axis(scores, slots, axis=1), jnp.take_along_axis(ids, slots, axis=1)
    )


def _resolve_ties(scores, ids, slots):
    """Keep, of the candidates that tie with the k-th, those with the lowest ids."""
    k = slots.shape[1] - 1
    cut = jnp.take_along_axis(scores, slots[:, k - 1 : k], axis=1)
    # Integers keep all ids apart; a float32 key would not above 2^24.
    key = jnp.where(scores == cut, -ids, -_LAST)
    key = jnp.where(scores > cut, 1, key)
    key = jnp.where(scores == -jnp.inf, -_LAST, key)
    return jax.lax.top_k(key, k + 1)[1]


def _in_order(scores, ids):
    ids = jnp.where(scores == -jnp.inf, _LAST, ids)
    scores, ids = jax.lax.sort((-scores, ids), dimension=1, num_keys=2)
    return jnp.where(ids == _LAST, -1, ids), -scores
