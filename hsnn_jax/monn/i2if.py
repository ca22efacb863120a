"""Inverted-index interaction features (I2IF): what a user's history says about an item.

An attribute value of the item (a category) is the key, the user's counts by key (categories
engaged with) are what it is looked up in; the result is a dense feature of the pair. All
functions are jittable, and a lookup for B users and m items reads B * m * A counts, never
B * m * V.

Source: arXiv 2408.06653v3, inverted index based interaction features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

_NO_KEY = np.iinfo(np.int32).max
STATISTICS = ("count", "share", "log_count", "recency")


class DenseTable(NamedTuple):
    """Counts by key, a column a key."""

    counts: jax.Array  # float32 [B, V]
    total: jax.Array  # float32 [B]: all values of the history
    recency: jax.Array | None  # float32 [B, V] in [0, 1]; 0 where the key never occurred


class SparseTable(NamedTuple):
    """Counts of the keys that occur, in ascending order of the keys."""

    keys: jax.Array  # int32 [B, K]; 2^31 - 1 in a free slot
    counts: jax.Array  # float32 [B, K]; 0 there
    total: jax.Array  # float32 [B]: all values of the history, those of dropped keys too
    recency: jax.Array | None  # float32 [B, K]


def count_dense(
    values: jax.Array | np.ndarray,
    vocabulary: int,
    *,
    ages: ArrayLike | None = None,
    half_life: float = 1.0,
) -> DenseTable:
    """Count a history's attribute values, a column each.

    The history must end before the pair that is to be scored: counts that contain the pair's
    own event give the label away.

    Args:
      values: int [B, L], or [B, L, A] for lists; those outside [0, vocabulary) are not counted.
      vocabulary: V.
      ages: optional float [B, L], time since each event. Recency is 2^(-age / half_life) of a
        key's latest event.
      half_life: in the unit of `ages`.
    """
    values, recency = _flat(values, ages, half_life)
    known = (values >= 0) & (values < vocabulary)
    column = jnp.where(known, values, vocabulary)  # out of range: dropped
    rows = jnp.arange(values.shape[0])[:, None]
    zeros = jnp.zeros((values.shape[0], vocabulary))
    if recency is not None:
        recency = zeros.at[rows, column].max(recency, mode="drop")
    counts = zeros.at[rows, column].add(1.0, mode="drop")
    return DenseTable(counts, jnp.sum(known, axis=1, dtype=jnp.float32), recency)


def count_sparse(
    values: jax.Array | np.ndarray,
    num_keys: int,
    *,
    ages: ArrayLike | None = None,
    half_life: float = 1.0,
) -> SparseTable:
    """Count a history's attribute values, keeping the `num_keys` most frequent of them.

    Of keys that occur equally often the smaller ones are kept. See `count_dense`; negative
    values are not counted, and there is no upper bound.
    """
    values, recency = _flat(values, ages, half_life)
    weights = jnp.zeros(values.shape) if recency is None else recency
    keys, counts, latest = jax.vmap(_distinct)(values, weights)
    if num_keys < keys.shape[1]:
        counts, kept = jax.lax.top_k(counts, num_keys)
        keys, latest = (jnp.take_along_axis(x, kept, axis=1) for x in (keys, latest))
        keys, counts, latest = jax.lax.sort((keys, counts, latest), dimension=1, num_keys=1)
    else:
        missing = ((0, 0), (0, num_keys - keys.shape[1]))
        keys = jnp.pad(keys, missing, constant_values=_NO_KEY)
        counts, latest = jnp.pad(counts, missing), jnp.pad(latest, missing)
    total = jnp.sum(values >= 0, axis=1, dtype=jnp.float32)
    return SparseTable(keys, counts, total, None if recency is None else latest)


def lookup(table: DenseTable | SparseTable, values: jax.Array | np.ndarray) -> jax.Array:
    """Compute the cross features of users and items for one attribute.

    Args:
      table: counts of the users [B].
      values: int [B, m, A], the values of each item, or [1, m, A] of items that all users share;
        those that a table cannot hold, as the padding -1, count as absent.

    Returns:
      float32 [B, m, S] in the order of `STATISTICS`: count, the sum over the item's values;
      share of the user's total; log(1 + count); and, where the table has it, the recency of the
      value engaged with last.
    """
    _check_keys(values)
    read = _read_dense if isinstance(table, DenseTable) else _read_sparse
    values = jnp.broadcast_to(values, (table.total.shape[0], *values.shape[1:]))
    counts, recency = read(table, values)
    count = jnp.sum(counts, axis=-1)
    share = count / jnp.maximum(table.total, 1)[:, None]
    features = [count, share, jnp.log1p(count)]
    if recency is not None:
        features.append(jnp.max(recency, axis=-1))
    return jnp.stack(features, axis=-1)


def _check_keys(values):
    # The cast to 32 bits would make other keys of them.
    if isinstance(values, np.ndarray) and values.size and values.max() >= _NO_KEY:
        raise ValueError(f"values: expected keys below 2^31 - 1, found {values.max()}")


def _flat(values, ages, half_life):
    """Return values int32 [B, L * A] and their events' recency, or None."""
    _check_keys(values)
    recency = None
    if ages is not None:
        recency = jnp.exp2(-jnp.maximum(ages, 0) / half_life)
        if values.ndim == 3:
            recency = jnp.repeat(recency, values.shape[2], axis=1)
    return values.reshape(values.shape[0], -1).astype(jnp.int32), recency


def _distinct(values_L, weights_L):
    """Count the distinct values >= 0 of one row, ascending; take the largest weight of each."""
    keys, weights_L = jax.lax.sort((jnp.where(values_L < 0, _NO_KEY, values_L), weights_L))
    is_new = jnp.concatenate([jnp.ones(1, bool), keys[1:] != keys[:-1]])
    slot = jnp.cumsum(is_new) - 1
    known = keys != _NO_KEY
    zeros = jnp.zeros(keys.shape)
    return (
        jnp.full(keys.shape, _NO_KEY).at[slot].set(keys),
        zeros.at[slot].add(known.astype(zeros.dtype)),
        zeros.at[slot].max(jnp.where(known, weights_L, 0)),
    )


def _read_dense(table, values):
    known = (values >= 0) & (values < table.counts.shape[1])
    column = jnp.where(known, values, 0)

    def read(by_key):
        found = jax.vmap(lambda row, columns: row[columns])(by_key, column)
        return jnp.where(known, found, 0)

    return read(table.counts), None if table.recency is None else read(table.recency)


def _read_sparse(table, values):
    slot = jax.vmap(jnp.searchsorted)(table.keys, values)
    slot = jnp.minimum(slot, table.keys.shape[1] - 1)

    def at(by_slot):
        return jax.vmap(lambda row, slots: row[slots])(by_slot, slot)

    known = (at(table.keys) == values) & (values >= 0)

    def read(by_slot):
        return jnp.where(known, at(by_slot), 0)

    return read(table.counts), None if table.recency is None else read(table.recency)
