"""Exact top k with one rule for ties: the higher score first, then the lower id."""

import functools

import jax
import jax.numpy as jnp

_LAST = jnp.iinfo(jnp.int32).max
# Candidates looked at beyond the k best where some tie: pairs of equal items are common, and more
# equals than this are not.
_SPARE = 8


def top_k(scores: jax.Array, ids: jax.Array, *, k: int) -> tuple[jax.Array, jax.Array]:
    """Return the k best candidates of each row.

    Args:
      scores: float [B, M]; -inf where a slot holds no candidate. NaN is as -inf: what has no
        score is no answer, while to a sort it is the largest number.
      ids: int32 [B, M], distinct among the candidates of a row, below 2^31 - 1.
      k: static.

    Returns:
      (ids int32 [B, k], scores [B, k]), best first; -1 and -inf where candidates run out.
    """
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    if scores.shape[1] <= k:
        missing = ((0, 0), (0, k - scores.shape[1]))
        scores = jnp.pad(scores, missing, constant_values=-jnp.inf)
        return _in_order(scores, jnp.pad(ids, missing, constant_values=-1))
    values, slots = _best(scores, k + 1)
    cut = values[:, k - 1]
    tied = jnp.any((cut == values[:, k]) & (cut > -jnp.inf))
    resolve = functools.partial(_resolve_ties, k=k)
    slots = jax.lax.cond(tied, resolve, lambda scores, ids, slots: slots[:, :k], scores, ids, slots)
    return _in_order(
        jnp.take_along_axis(scores, slots, axis=1), jnp.take_along_axis(ids, slots, axis=1)
    )


def _best(scores, count):
    values, slots = jax.lax.top_k(scores, count)
    # Without the barriers XLA:CPU merges slices of these into a full sort, 100 times slower;
    # one barrier for both makes it abort under a mesh (jaxlib 0.10.2).
    return jax.lax.optimization_barrier(values), jax.lax.optimization_barrier(slots)


def _resolve_ties(scores, ids, slots, *, k):
    """Keep, of the candidates that tie with the k-th, those with the lowest ids: slots [B, k].

    They are among the best k + _SPARE, unless the last of these ties too.
    """
    del slots
    values, slots = _best(scores, min(k + _SPARE, scores.shape[1]))
    if slots.shape[1] < scores.shape[1]:
        cut = values[:, k - 1]
        beyond = jnp.any((cut == values[:, -1]) & (cut > -jnp.inf))
        search_all = functools.partial(_lowest_of_all, k=k)
        slots = jax.lax.cond(
            beyond, search_all, lambda scores, ids, values, slots: slots, scores, ids, values, slots
        )
    values, ids = (jnp.take_along_axis(x, slots, axis=1) for x in (scores, ids))
    ids = jnp.where(values == -jnp.inf, _LAST, ids)
    return jax.lax.sort((-values, ids, slots), dimension=1, num_keys=2)[2][:, :k]


def _lowest_of_all(scores, ids, values, slots, *, k):
    """Put those that tie in the order of their ids; XLA:CPU sorts all integers of a row for it."""
    cut = values[:, k - 1 : k]
    # Integers keep all ids apart; a float32 key would not above 2^24.
    key = jnp.where(scores == cut, -ids, -_LAST)
    key = jnp.where(scores > cut, 1, key)
    key = jnp.where(scores == -jnp.inf, -_LAST, key)
    return jax.lax.top_k(key, slots.shape[1])[1]


def _in_order(scores, ids):
    ids = jnp.where(scores == -jnp.inf, _LAST, ids)
    scores, ids = jax.lax.sort((-scores, ids), dimension=1, num_keys=2)
    return jnp.where(ids == _LAST, -1, ids), -scores
