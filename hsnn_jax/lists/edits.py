"""Compiled edits of the lists: items are put into slots, slots freed, all items listed anew.

Of one shape whatever the number of items, so that nothing is traced anew; `widen` alone makes
other shapes.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hsnn_jax.distance import Distance, nearest, pairwise_distance
from hsnn_jax.lists.assignment import assign_rows, rank_in_group
from hsnn_jax.lists.index import Index, Tiles, extents_of, live, pack
from hsnn_jax.lists.wide import (
    WideTiles,
    pack_like,
    vectors_at,
    vectors_of_list,
    widened,
    with_vectors,
)

# Items a compiled update takes; it is padded to one of these, so there are two programs in all.
BATCHES = (32, 1024)


@functools.partial(jax.jit, static_argnames="distance")
def insert(
    index: Index,
    tiles: Tiles | WideTiles,
    *,
    carried: Tiles | None,
    vectors: jax.Array,
    features: Any,
    rows: jax.Array,
    count: jax.Array | int,
    distance: Distance,
) -> tuple[Index, Tiles | WideTiles, Tiles | None]:
    """Place items one after the other, each at its nearest node with a free slot.

    Args:
      index, tiles, carried: see `living.Living`.
      vectors: float32 [b, d].
      features: pytree of [b, ...], or None.
      rows: int32 [b]; n for padding.
      count: how many of them are items, the first ones.
      distance: see `distance.pairwise_distance`.
    """
    num_nodes, capacity = index.lists.shape
    distances = pairwise_distance(vectors, index.nodes, distance=distance)

    def place(i, carry):
        lists, counts, slots, overflow = carry
        node = jnp.argmin(jnp.where(counts < capacity, distances[i], jnp.inf))
        column = jnp.argmax(lists[node] < 0)
        lists = lists.at[node, column].set(rows[i])
        overflow += (node != jnp.argmin(distances[i])).astype(jnp.int32)
        slots = slots.at[i].set((node * capacity + column).astype(jnp.int32))
        return lists, counts.at[node].add(1), slots, overflow

    # The slot of padding is out of range: it is dropped below.
    slots = jnp.full(rows.shape, num_nodes * capacity, jnp.int32)
    carry = (index.lists, index.counts, slots, index.overflow)
    lists, counts, slots, overflow = jax.lax.fori_loop(0, count, place, carry)
    index = index._replace(
        lists=lists,
        counts=counts,
        positions=index.positions.at[rows].set(slots, mode="drop"),
        overflow=overflow,
    )
    node, column = slots // capacity, slots % capacity

    def put(tiles, values):
        return tiles.at[node, column].set(values, mode="drop")

    tiles = with_vectors(tiles, vectors, node=node, column=column)
    if carried is not None:
        carried = Tiles(jax.tree.map(put, carried.features, features))
    return _mend(index, tiles, node, distance), tiles, carried


@functools.partial(jax.jit, static_argnames="distance")
def discard(
    index: Index, tiles: Tiles | WideTiles, *, rows: jax.Array, distance: Distance
) -> Index:
    """Free the slots of rows int32 [b], n for padding."""
    num_nodes, capacity = index.lists.shape
    nowhere = num_nodes * capacity
    slots = index.positions.at[rows].get(mode="fill", fill_value=nowhere)
    node, column = slots // capacity, slots % capacity
    vectors = vectors_at(tiles, node=node, column=column)
    wanted, _ = nearest(vectors, index.nodes, distance=distance)
    away = jnp.sum((wanted != node) & (node < num_nodes), dtype=jnp.int32)
    index = index._replace(
        lists=index.lists.at[node, column].set(-1, mode="drop"),
        counts=index.counts.at[node].add(-1, mode="drop"),
        positions=index.positions.at[rows].set(nowhere, mode="drop"),
        overflow=jnp.maximum(index.overflow - away, 0),
    )
    return _mend(index, tiles, node, distance)


@functools.partial(jax.jit, static_argnames="distance")
def relist(
    index: Index, tiles: Tiles | WideTiles, *, vectors: jax.Array, features: Any, distance: Distance
) -> tuple[Index, Tiles | WideTiles, Tiles | None]:
    """List all live rows anew by the rule of `assign`.

    Args:
      index: whose nodes stay.
      tiles: whose layout stays.
      vectors: float32 [n, d].
      features: pytree of [n, ...], or None.
      distance: see `distance.pairwise_distance`.
    """
    num_nodes, capacity = index.lists.shape
    node_of, wanted = assign_rows(
        vectors, index.nodes, waiting=live(index), capacity=capacity, distance=distance
    )
    slots = node_of * capacity + rank_in_group(node_of)
    # Free rows have node K: their slots are out of range.
    slots = jnp.minimum(slots, num_nodes * capacity).astype(jnp.int32)
    lists = jnp.full(num_nodes * capacity, -1, jnp.int32)
    lists = lists.at[slots].set(jnp.arange(slots.size, dtype=jnp.int32), mode="drop")
    index = index._replace(
        lists=lists.reshape(num_nodes, capacity),
        counts=jax.ops.segment_sum(jnp.ones_like(node_of), node_of, num_nodes),
        positions=slots,
        overflow=jnp.sum((wanted != node_of) & (node_of < num_nodes), dtype=jnp.int32),
    )
    tiles = pack_like(tiles, index, vectors=vectors)
    features = None if features is None else pack(index, features)
    return _mend(index, tiles, jnp.arange(num_nodes), distance), tiles, features


@functools.partial(jax.jit, static_argnames="factor")
def widen(
    index: Index, tiles: Tiles | WideTiles, *, carried: Tiles | None, factor: int
) -> tuple[Index, Tiles | WideTiles, Tiles | None]:
    """Make rows and slots so many times as many; every item keeps its row, node and column."""
    num_nodes, capacity = index.lists.shape
    wide, rows = capacity * factor, index.positions.shape[0]

    def longer(x, value=0):
        more = ((0, 0), (0, wide - capacity), *((0, 0),) * (x.ndim - 2))
        return jnp.pad(x, more, constant_values=value)

    node, column = index.positions // capacity, index.positions % capacity
    positions = jnp.where(live(index), node * wide + column, num_nodes * wide)
    free = (0, rows * (factor - 1))
    index = index._replace(
        lists=longer(index.lists, -1),
        positions=jnp.pad(positions, free, constant_values=num_nodes * wide),
    )
    carried = jax.tree.map(longer, carried)
    if isinstance(tiles, WideTiles):
        return index, widened(tiles, capacity, factor=factor), carried
    return index, jax.tree.map(longer, tiles), carried


def _mend(index, tiles, nodes, distance):
    """Find the extents of these nodes [b] again, and representatives; node K is padding."""

    def of_node(node):
        ids, row = _listed(index, tiles, node, distance)
        return ids[jnp.argmin(jnp.where(ids >= 0, row, jnp.inf))], extents_of(ids)

    representatives, extents = jax.lax.map(of_node, nodes)
    return index._replace(
        representatives=index.representatives.at[nodes].set(representatives, mode="drop"),
        extents=index.extents.at[nodes].set(extents, mode="drop"),
    )


@functools.partial(jax.jit, static_argnames="distance")
def total_distance(index: Index, tiles: Tiles | WideTiles, *, distance: Distance) -> jax.Array:
    """Return the sum over items of the distance to the node that lists them, float32 []."""

    def of_node(node):
        ids, row = _listed(index, tiles, node, distance)
        return jnp.sum(jnp.where(ids >= 0, row, 0.0))

    return jnp.sum(jax.lax.map(of_node, jnp.arange(index.lists.shape[0])))


def _listed(index, tiles, node, distance):
    """Return (rows [C], distances [C]) of one node's list."""
    centre, ids, held = jax.tree.map(
        lambda x: x.at[node].get(mode="clip"), (index.nodes, index.lists, tiles)
    )
    vectors = vectors_of_list(held, ids.size)
    return ids, pairwise_distance(vectors, centre[None, :], distance=distance).squeeze(axis=1)


def batches(size: int) -> Iterator[tuple[slice, int]]:
    """Cut `size` items into (slice, padded size), of few sizes, so that few are compiled."""
    first = 0
    while first < size:
        padded_size = next((b for b in BATCHES if size - first <= b), BATCHES[-1])
        last = min(first + padded_size, size)
        yield slice(first, last), padded_size
        first = last


def padded(rows: np.ndarray, size: int, *, value: Any) -> np.ndarray:
    """Return `size` rows, the further ones filled with a value."""
    out = np.full((size, *rows.shape[1:]), value, rows.dtype)
    out[: rows.shape[0]] = rows
    return out
