"""Exact top k with one rule for ties: the higher score first, then the lower id.

In two stages. The first finds a few more than k candidates: XLA:CPU's own top k, or, for many
rows, a threshold (`shortlist`). The second puts these in order. A row where more tie than the first
stage takes is searched again, a few rows at a time: one user with many ties makes no other wait.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from hsnn_jax.shortlist import ordered_bits, shortlist

_LAST = jnp.iinfo(jnp.int32).max
# Candidates looked at beyond the k best: pairs of equal items are common, and more equals than
# this are not.
_SPARE = 8
_STEPS = 4  # of neighbours that change places, before pairs are sorted
_ROWS = 32  # whose many ties are told apart at once
# A threshold is sought where there are many rows of many scores: XLA's own top k takes 34 us a row
# of 4,096 for k = 100, this one 15, but in a single row each of its steps costs a microsecond.
_MANY_ROWS, _LEAST_K, _SCORES_PER_K = 16, 24, 16

IdsAt = Callable[[jax.Array, jax.Array], jax.Array]  # (rows [b], slots [b, m]) -> ids [b, m]


def top_k(scores: jax.Array, ids: jax.Array | IdsAt, *, k: int) -> tuple[jax.Array, jax.Array]:
    """Return the k best candidates of each row.

    Args:
      scores: float32 [B, M]; -inf where a slot holds no candidate. NaN is as -inf: what has no
        score is no answer, while to a sort it is the largest number.
      ids: int32 [B, M], distinct among the candidates of a row, below 2^31 - 1; or what returns
        those of rows int32 [b] at slots int32 [b, m], so that only candidates' ids are read.
      k: static.

    Returns:
      (ids int32 [B, k], scores [B, k]), best first; -1 and -inf where candidates run out.
    """
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    num_rows, width = scores.shape
    ids_at = ids if callable(ids) else _reader(ids)
    rows = jnp.arange(num_rows)
    if width <= k:
        slots = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), scores.shape)
        missing = ((0, 0), (0, k - width))
        scores = jnp.pad(scores, missing, constant_values=-jnp.inf)
        return _in_order(scores, jnp.pad(ids_at(rows, slots), missing, constant_values=-1), k)
    many = num_rows >= _MANY_ROWS and k >= _LEAST_K and width >= _SCORES_PER_K * k
    slots, more = (shortlist if many else _by_xla)(scores, k)
    if slots.shape[1] < width:
        slots = jax.lax.cond(
            jnp.any(more),
            lambda: _with_lowest(scores, ids_at, slots, more, k=k),
            lambda: slots,
        )
    values = jnp.take_along_axis(scores, jnp.maximum(slots, 0), axis=1)
    values = jnp.where(slots < 0, -jnp.inf, values)
    return _in_order(values, ids_at(rows, jnp.maximum(slots, 0)), k)


def _reader(ids):
    ids = jnp.asarray(ids)
    return lambda rows, slots: ids[rows[:, None], slots]


def _by_xla(scores, k):
    """Return the best k + _SPARE slots, and bool [B] where the last of them ties with the k-th."""
    values, slots = _best(scores, min(k + _SPARE, scores.shape[1]))
    cut = values[:, k - 1]
    return slots, (cut == values[:, -1]) & (cut > -jnp.inf)


def _best(scores, count):
    values, slots = jax.lax.top_k(scores, count)
    # Without the barriers XLA:CPU merges slices of these into a full sort, 100 times slower;
    # one barrier for both makes it abort under a mesh (jaxlib 0.10.2).
    return jax.lax.optimization_barrier(values), jax.lax.optimization_barrier(slots)


def _with_lowest(scores, ids_at, slots, more, *, k):
    """Search all candidates of the rows where bool [B] says so, a few rows at a time."""
    size = min(_ROWS, more.size)
    rows = jnp.argsort(~more, stable=True)
    rows = jnp.pad(rows, (0, -rows.size % size), constant_values=rows.size)

    def resolve(i, slots):
        some = jax.lax.dynamic_slice_in_dim(rows, i * size, size)
        few = scores.at[some].get(mode="clip")
        every = jnp.broadcast_to(jnp.arange(few.shape[1], dtype=jnp.int32), few.shape)
        ids = ids_at(jnp.minimum(some, more.size - 1), every)
        found = _lowest_of_all(few, ids, k=k, count=slots.shape[1])
        return slots.at[some].set(found, mode="drop")

    return jax.lax.fori_loop(0, -(-jnp.sum(more) // size), resolve, slots)


def _lowest_of_all(scores, ids, *, k, count):
    """Choose those that tie by bisection of their ids: slots [B, count], the k chosen first.

    XLA:CPU would sort all integers of a row.
    """
    cut = _best(scores, k)[0][:, -1:]
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
    values, slots = _best(jnp.where(chosen, scores, -jnp.inf), count)
    return jnp.where(values == -jnp.inf, -1, slots)


def _in_order(scores, ids, k):
    """Order float [B, M] and their ids, and keep k.

    XLA:CPU sorts single integers five times as fast as pairs. So scores are sorted with their
    last bits replaced by their places, and neighbours that this leaves in the wrong order, and
    those that tie, change places until none do; pairs are sorted where that takes long.
    """
    ids = jnp.where(scores == -jnp.inf, _LAST, ids)
    if scores.shape[0] < _MANY_ROWS:  # one step, where each costs a microsecond
        scores, ids = _sorted_pairs(scores, ids)
        return jnp.where(ids[:, :k] == _LAST, -1, ids[:, :k]), scores[:, :k]
    bits = max(scores.shape[1] - 1, 1).bit_length()
    places = jnp.arange(scores.shape[1], dtype=jnp.int32)[None, :]
    keys = jnp.sort((~ordered_bits(scores) >> bits << bits) | places, axis=1)
    order = jax.lax.optimization_barrier(keys & (2**bits - 1))
    pair = tuple(jnp.take_along_axis(x, order, axis=1) for x in (scores, ids))
    steps, *pair = jax.lax.while_loop(
        lambda carry: (carry[0] < _STEPS) & jnp.any(_misplaced(*carry[1:])),
        lambda carry: (carry[0] + 1, *_swapped(_swapped(carry[1:], 0), 1)),
        (0, *pair),
    )
    scores, ids = jax.lax.cond(  # one row of many ties would make all wait for its steps
        steps < _STEPS, lambda scores, ids: (scores, ids), _sorted_pairs, *pair
    )
    return jnp.where(ids[:, :k] == _LAST, -1, ids[:, :k]), scores[:, :k]


def _sorted_pairs(scores, ids):
    scores, ids = jax.lax.sort((-scores, ids), dimension=1, num_keys=2)
    return -scores, ids


def _misplaced(scores, ids):
    """Return bool [B, M - 1]: whether a candidate's right neighbour should come before it."""
    left, right = scores[:, :-1], scores[:, 1:]
    return (right > left) | ((right == left) & (ids[:, 1:] < ids[:, :-1]))


def _swapped(pair, first: int):
    """Put the neighbours (first, first + 1), (first + 2, first + 3) ... in order."""
    starts = jnp.arange(pair[0].shape[1] - 1) % 2 == first
    wrong = _misplaced(*pair) & starts[None, :]
    takes_next = jnp.pad(wrong, ((0, 0), (0, 1)))
    takes_last = jnp.pad(wrong, ((0, 0), (1, 0)))

    def of(x):
        after = jnp.pad(x[:, 1:], ((0, 0), (0, 1)))
        before = jnp.pad(x[:, :-1], ((0, 0), (1, 0)))
        return jnp.where(takes_next, after, jnp.where(takes_last, before, x))

    return tuple(of(x) for x in pair)
