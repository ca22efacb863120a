"""A living index: items come and go in fixed-capacity lists, without a rebuild or a retrace.

Every update is a function from one `Living` to the next, so that whoever holds the old one
goes on reading it, whole.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hsnn_jax.distance import Distance, nearest, pairwise_distance
from hsnn_jax.lists.assignment import assign_rows, rank_in_group
from hsnn_jax.lists.checks import as_ids, as_vectors, check_features
from hsnn_jax.lists.index import Index, Tiles, extents_of, live, pack, stats

# Items a compiled update takes; it is padded to one of these, so there are two programs in all.
_BATCHES = (32, 1024)


class Living(NamedTuple):
    """An index with what it takes to change it."""

    index: Index  # pyright: ignore[reportIncompatibleMethodOverride]  # not tuple's method
    tiles: Tiles  # item vectors, float32 [K, C, d]
    ids: np.ndarray  # int64 [n]: the caller's id in each row, -1 in a free row
    rows: tuple[np.ndarray, np.ndarray]  # the ids present, ascending, and their rows
    baseline: dict[str, float]  # `measure` of the index when it was built
    features: Tiles | None  # what moves with the items besides their vectors


def start(
    index: Index,
    item_vectors: ArrayLike,
    *,
    ids: np.ndarray,
    distance: Distance = "l2",
    baseline: dict[str, float] | None = None,
    features: Any = None,
) -> Living:
    """Make a built index living.

    Args:
      index: from `build_index`, with `reserve` free rows.
      item_vectors: float32 [m, d] of the first m rows, at least the live ones.
      ids: int [n], one a row, -1 in free rows.
      distance: see `distance.pairwise_distance`.
      baseline: of an index that was saved; measured now by default.
      features: optional pytree of [m, ...] that moves with the items, as what a scorer reads in
        place of their vectors.
    """
    tiles = pack(index, jnp.asarray(item_vectors, jnp.float32))
    features = None if features is None else pack(index, features)
    present = np.flatnonzero(ids >= 0)
    order = present[np.argsort(ids[present], kind="stable")]
    baseline = measure(index, tiles, distance=distance) if baseline is None else baseline
    ids, rows = np.asarray(ids, np.int64), (ids[order], order)
    return Living(index, tiles, ids, rows, baseline, features)


def add(
    living: Living,
    vectors: ArrayLike,
    *,
    ids: ArrayLike,
    distance: Distance = "l2",
    features: Any = None,
) -> Living:
    """List new items, one after the other, each at its nearest node that has a free slot.

    Args:
      living: stays as it is.
      vectors: float [b, d].
      ids: int [b], the caller's ids.
      distance: see `distance.pairwise_distance`.
      features: pytree of [b, ...] where the items have features.

    Raises:
      ValueError: vectors are not finite or not as wide as the nodes; ids are negative, repeated
        or present already; there are fewer than b free rows; features are missing or differ in
        shape or type from those of the others.
    """
    width = living.index.nodes.shape[1]
    vectors = np.asarray(as_vectors("vectors", vectors, width=width, empty=True))
    ids = as_ids("ids", ids, size=vectors.shape[0])
    features = check_features(features, _held(living), size=ids.size)
    known = ids[rows_of(living, ids) >= 0]
    if known.size:
        raise ValueError(f"ids: expected new ones, found {known[0]}, which the index holds")
    free = np.flatnonzero(living.ids < 0)
    if free.size < ids.size:
        raise ValueError(
            f"ids: expected at most {free.size}, the free rows of the index, found {ids.size}; "
            "build it with a larger reserve"
        )
    rows = free[: ids.size].astype(np.int32)
    index, tiles, carried = living.index, living.tiles, living.features
    for part, size in batches(ids.size):
        index, tiles, carried = _insert(
            index,
            tiles,
            carried,
            padded(vectors[part].astype(np.float32), size, value=0),
            jax.tree.map(lambda x, part=part, size=size: padded(x[part], size, value=0), features),
            padded(rows[part], size, value=living.ids.size),
            part.stop - part.start,
            distance=distance,
        )
    new_ids = living.ids.copy()
    new_ids[rows] = ids
    sorted_ids, sorted_rows = living.rows
    order = np.argsort(ids, kind="stable")
    places = np.searchsorted(sorted_ids, ids[order])
    table = np.insert(sorted_ids, places, ids[order]), np.insert(sorted_rows, places, rows[order])
    return living._replace(index=index, tiles=tiles, features=carried, ids=new_ids, rows=table)


def remove(living: Living, ids: ArrayLike, *, distance: Distance = "l2") -> Living:
    """Free the slots and rows of items; a node that loses its representative gets another.

    Args:
      living: stays as it is.
      ids: int [b], the caller's ids.
      distance: see `distance.pairwise_distance`.

    Raises:
      ValueError: ids are repeated or not present.
    """
    ids, rows = _known_rows(living, ids)
    index = living.index
    for part, size in batches(ids.size):
        some = padded(rows[part], size, value=living.ids.size)
        index = _discard(index, living.tiles, some, distance=distance)
    new_ids = living.ids.copy()
    new_ids[rows] = -1
    places = np.searchsorted(living.rows[0], ids)
    table = tuple(np.delete(part, places) for part in living.rows)
    return living._replace(index=index, ids=new_ids, rows=table)


def reassign(
    living: Living,
    vectors: ArrayLike | None = None,
    *,
    ids: ArrayLike | None = None,
    distance: Distance = "l2",
    features: Any = None,
) -> Living:
    """List all items anew by the rule of `assign`, at nodes that stay where they are.

    Items that overflowed come home where removals have made room, and items whose vectors
    changed move.

    Args:
      living: stays as it is.
      vectors: optional float [b, d], new vectors of some items.
      ids: int [b], the caller's ids of those.
      distance: see `distance.pairwise_distance`.
      features: pytree of [b, ...] of these items, where items have features.

    Raises:
      ValueError: only one of `vectors` and `ids` is given; vectors are not finite or not as
        wide as the nodes; ids are repeated or not present; features as in `add`.
    """
    if (vectors is None) != (ids is None):
        given, missing = ("ids", "vectors") if vectors is None else ("vectors", "ids")
        raise ValueError(f"{missing}: expected them together with {given}, found none")
    held = item_vectors(living), item_features(living)
    if ids is not None and vectors is not None:
        width = living.index.nodes.shape[1]
        vectors = np.asarray(as_vectors("vectors", vectors, width=width, empty=True))
        ids, rows = _known_rows(living, ids, size=vectors.shape[0])
        features = check_features(features, _held(living), size=ids.size)
        held = jax.tree.map(lambda old, new: _with_rows(old, rows, new), held, (vectors, features))
    index, tiles, carried = _relist(living.index, *held, distance=distance)
    return living._replace(index=index, tiles=tiles, features=carried)


def item_vectors(living: Living) -> jax.Array:
    """Return the vectors by row, float32 [n, d]; zeros in free rows."""
    return by_row(living.index, living.tiles.features)


def item_features(living: Living) -> Any:
    """Return the features by row, a pytree of [n, ...], zeros in free rows; None without any."""
    return jax.tree.map(functools.partial(by_row, living.index), _held(living))


def by_row(index: Index, tiles: jax.Array) -> jax.Array:
    """Return what tiles [K, C, ...] hold of each item, [n, ...]; zeros in free rows."""
    flat = tiles.reshape(-1, *tiles.shape[2:])
    return flat.at[index.positions].get(mode="fill", fill_value=0)


def _held(living):
    return None if living.features is None else living.features.features


def _with_rows(held, rows, values):
    held = np.array(held)
    held[rows] = values
    return jnp.asarray(held)


def rows_of(living: Living, ids: ArrayLike) -> np.ndarray:
    """Return the rows of the caller's ids int [...], int32; -1 where unknown."""
    sorted_ids, rows = living.rows
    if not sorted_ids.size:
        return np.full(np.shape(ids), -1, np.int32)
    place = np.minimum(np.searchsorted(sorted_ids, ids), sorted_ids.size - 1)
    return np.where(sorted_ids[place] == ids, rows[place], -1).astype(np.int32)


def measure(index: Index, tiles: Tiles, *, distance: Distance = "l2") -> dict[str, float]:
    """Measure how well the nodes fit the items now.

    Returns:
      `overflow_share` of items away from their nearest node; `mean_distance` of items to the
      node that lists them; `imbalance`, max / mean occupancy. All 0 without items.
    """
    found = stats(index)
    items = max(found["items"], 1)
    return {
        "overflow_share": found["overflow"] / items,
        "mean_distance": float(_total_distance(index, tiles, distance=distance)) / items,
        "imbalance": found["imbalance"],
    }


def drift(living: Living, *, distance: Distance = "l2") -> dict[str, float]:
    """Return `measure` of now, and of the build under names that end in `_at_build`."""
    at_build = {f"{name}_at_build": value for name, value in living.baseline.items()}
    return measure(living.index, living.tiles, distance=distance) | at_build


def needs_rebuild(
    drift: dict[str, float],
    *,
    more_overflow: float = 0.1,
    distance_ratio: float = 1.2,
    imbalance_ratio: float = 2.0,
) -> bool:
    """Tell whether new nodes are due.

    Everything is held against the build, since that is what a rebuild brings back.

    Args:
      drift: from `drift`.
      more_overflow: growth of the overflow share that is too much.
      distance_ratio: growth of the mean distance to the node that is too much.
      imbalance_ratio: growth of max / mean occupancy that is too much.
    """
    return (
        drift["overflow_share"] > drift["overflow_share_at_build"] + more_overflow
        or drift["mean_distance"] > distance_ratio * drift["mean_distance_at_build"]
        or drift["imbalance"] > imbalance_ratio * drift["imbalance_at_build"]
    )


@functools.partial(jax.jit, static_argnames="distance")
def _insert(index, tiles, carried, vectors, features, rows, count, *, distance):
    """Place the first `count` of the rows [b], in order."""
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

    tiles = Tiles(put(tiles.features, vectors))
    if carried is not None:
        carried = Tiles(jax.tree.map(put, carried.features, features))
    return _mend(index, tiles, node, distance), tiles, carried


@functools.partial(jax.jit, static_argnames="distance")
def _discard(index, tiles, rows, *, distance):
    num_nodes, capacity = index.lists.shape
    nowhere = num_nodes * capacity
    slots = index.positions.at[rows].get(mode="fill", fill_value=nowhere)
    node, column = slots // capacity, slots % capacity
    vectors = tiles.features.at[node, column].get(mode="clip")
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
def _relist(index, vectors, features, *, distance):
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
    tiles = pack(index, vectors)
    features = None if features is None else pack(index, features)
    return _mend(index, tiles, jnp.arange(num_nodes), distance), tiles, features


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
def _total_distance(index, tiles, *, distance):
    def of_node(node):
        ids, row = _listed(index, tiles, node, distance)
        return jnp.sum(jnp.where(ids >= 0, row, 0.0))

    return jnp.sum(jax.lax.map(of_node, jnp.arange(index.lists.shape[0])))


def _listed(index, tiles, node, distance):
    """Return (rows [C], distances [C]) of one node's list."""
    centre, ids, vectors = (
        x.at[node].get(mode="clip") for x in (index.nodes, index.lists, tiles.features)
    )
    return ids, pairwise_distance(vectors, centre[None, :], distance=distance)[:, 0]


def batches(size: int) -> Iterator[tuple[slice, int]]:
    """Cut `size` items into (slice, padded size), of few sizes, so that few are compiled."""
    first = 0
    while first < size:
        padded_size = next((b for b in _BATCHES if size - first <= b), _BATCHES[-1])
        last = min(first + padded_size, size)
        yield slice(first, last), padded_size
        first = last


def padded(rows: np.ndarray, size: int, *, value: Any) -> np.ndarray:
    """Return `size` rows, the further ones filled with a value."""
    out = np.full((size, *rows.shape[1:]), value, rows.dtype)
    out[: rows.shape[0]] = rows
    return out


def _known_rows(living, ids, size=None):
    """Return (ids, their rows)."""
    ids = as_ids("ids", ids, size=size)
    rows = rows_of(living, ids)
    if (rows < 0).any():
        unknown = ids[np.argmin(rows)]
        raise ValueError(f"ids: expected ids that the index holds, found {unknown}")
    return ids, rows
