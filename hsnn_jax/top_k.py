"""Exact top k with one rule for ties: the higher score first, then the lower id."""

import functools

import jax
import jax.numpy as jnp

_LAST = jnp.iinfo(jnp.int32).max
# Candidates looked at beyond the k best where some tie: pairs of equal items are common, and more
# equals than this are not.
_SPARE = 8
# Whose many ties are told apart at once: one user with many must not make all others wait.
_ROWS = 32


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
        beyond = (cut == values[:, -1]) & (cut > -jnp.inf)
        slots = _with_lowest(scores, ids, cut, slots, beyond, k=k)
    values, ids = (jnp.take_along_axis(x, slots, axis=1) for x in (scores, ids))
    ids = jnp.where(values == -jnp.inf, _LAST, ids)
    return jax.lax.sort((-values, ids, slots), dimension=1, num_keys=2)[2][:, :k]


def _with_lowest(scores, ids, cut, slots, beyond, *, k):
    """Search all candidates of the rows where bool [B] says so, a few rows at a time."""
    size = min(_ROWS, beyond.size)
    rows = jnp.argsort(~beyond, stable=True)
    rows = jnp.pad(rows, (0, -rows.size % size), constant_values=rows.size)

    def resolve(i, slots):
        some = jax.lax.dynamic_slice_in_dim(rows, i * size, size)
        few = (x.at[some].get(mode="clip") for x in (scores, ids, cut[:, None]))
        found = _lowest_of_all(*few, k=k, count=slots.shape[1])
        return slots.at[some].set(found, mode="drop")

    return jax.lax.fori_loop(0, -(-jnp.sum(beyond) // size), resolve, slots)


def _lowest_of_all(scores, ids, cut, *, k, count):
    """Choose those that tie by bisection of their ids: slots [B, count], the k chosen first.

    XLA:CPU would sort all integers of a row.
    """
    above = scores > cut
    wanted = k - jnp.sum(above, axis=1, keepdims=True)
    tied = jnp.where((scores == cut) & (scores > -jnp.inf), ids, _LAST)

    def halve(bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        enough = jnp.sum(tied <= middle, axis=1, keepdims=True) >= wanted
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    # All of them are enough; a row without ties is done at once.
    high = jnp.max(jnp.where(tied < _LAST, tied, 0), axis=1, keepdims=True)
    low = jnp.minimum(jnp.min(tied, axis=1, keepdims=True), high)
    last = jax.lax.while_loop(lambda bounds: jnp.any(bounds[0] < bounds[1]), halve, (low, high))[1]
    chosen = above | (tied <= last)
    return _best(jnp.where(chosen, scores, -jnp.inf), count)[1]


def _in_order(scores, ids):
    ids = jnp.where(scores == -jnp.inf, _LAST, ids)
    scores, ids = jax.lax.sort((-scores, ids), dimension=1, num_keys=2)
    return jnp.where(ids == _LAST, -1, ids), -scores
