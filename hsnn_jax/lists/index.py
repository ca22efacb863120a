"""The index: nodes and fixed-capacity lists of items, as a pytree of arrays."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hsnn_jax.distance import Distance, pairwise_distance
from hsnn_jax.lists.assignment import check_capacity, list_by, place
from hsnn_jax.lists.checks import as_integers, as_vectors


class Index(NamedTuple):
    """One level of a hierarchy over n rows of items: K nodes, each with a list of C slots.

    The items of a level may themselves be nodes of a finer one; an id is a row of that level.
    Rows may be free, kept for later items: they are in no list, and no search returns them.
    """

    nodes: jax.Array  # float32 [K, d]
    lists: jax.Array  # int32 [K, C]: item ids, -1 in a free slot
    counts: jax.Array  # int32 [K]: occupied slots
    extents: jax.Array  # int32 [K]: slots up to the last occupied one
    positions: jax.Array  # int32 [n]: an item's slot, node * C + column; K * C in a free row
    representatives: jax.Array  # int32 [K]: the listed item nearest to the node, -1 if none
    overflow: jax.Array  # int32 []: items that their nearest node had no room for


_PAGE = 128  # slots of a page, about: fewer leave less of the last one free, more make fewer slices
_LANES = 16  # of which a page has whole ones: a vector register of float32


def page_width(capacity: int) -> int:
    """Return the slots of a page of width-major tiles (`wide`): about 128, in equal pages."""
    pages = max(1, round(capacity / _PAGE))
    return -(-capacity // (pages * _LANES)) * _LANES


def in_whole_pages(capacity: int) -> int:
    """Round a capacity up to whole pages, but not one that is shorter than a page."""
    page = page_width(capacity)
    return capacity if capacity < _PAGE else -(-capacity // page) * page


class Tiles(NamedTuple):
    """Item features laid out by slot: every leaf is [K, C, ...]; free slots hold any item's."""

    features: Any


def build_index(
    item_vectors: ArrayLike,
    nodes: ArrayLike,
    *,
    capacity: int | None = None,
    slack: float = 2.0,
    reserve: int = 0,
    node_of: ArrayLike | None = None,
    distance: Distance = "l2",
) -> Index:
    """Assign items to nodes and lay out the lists.

    Args:
      item_vectors: float [n, d].
      nodes: float [K, d], from k-means or LTI.
      capacity: slots of a list; by default `slack` times the mean number of rows of a node, in
        whole pages where it is long (with `node_of`, at least the largest group).
      slack: >= 1; room for unequal lists and for later inserts.
      reserve: free rows for items that are added later (see `living`).
      node_of: optional int [n], the node of each item, as in a natural hierarchy; by default
        its nearest node with room.
      distance: see `distance.pairwise_distance`.

    Returns:
      `Index` of n + reserve rows.

    Raises:
      ValueError: the widths differ, the capacity cannot hold all rows, `reserve` is negative,
        or `node_of` is not a node of every item.
    """
    item_vectors = as_vectors("item_vectors", item_vectors)
    nodes = as_vectors("nodes", nodes, width=item_vectors.shape[1])
    items, num_nodes = item_vectors.shape[0], nodes.shape[0]
    if reserve < 0:
        raise ValueError(f"reserve: expected a number >= 0, found {reserve}")
    rows = items + reserve
    default = in_whole_pages(math.ceil(slack * rows / num_nodes))
    if node_of is None:
        capacity = default if capacity is None else capacity
        check_capacity(rows, num_nodes, capacity=capacity)
        node_of, wanted = place(item_vectors, nodes, capacity=capacity, distance=distance)
    else:
        node_of = wanted = _check_groups(node_of, items, num_nodes)
        largest = int(np.bincount(wanted).max())
        capacity = max(default, largest) if capacity is None else capacity
        check_capacity(rows, num_nodes, capacity=capacity)
        if largest > capacity:
            raise ValueError(
                f"capacity: expected the size of the largest group, {largest}, found {capacity}"
            )
    lists = list_by(node_of, num_nodes, capacity=capacity)
    positions = positions_of(lists, rows)
    overflow = np.sum(wanted != positions[:items] // capacity)
    counts = jnp.asarray((lists >= 0).sum(axis=1), jnp.int32)
    return Index(
        nodes=jnp.asarray(nodes, jnp.float32),
        lists=jnp.asarray(lists),
        counts=counts,
        extents=counts,
        positions=jnp.asarray(positions),
        representatives=_representatives(
            jnp.asarray(item_vectors), jnp.asarray(nodes), jnp.asarray(lists), distance=distance
        ),
        overflow=jnp.asarray(overflow, jnp.int32),
    )


def positions_of(lists: np.ndarray, rows: int) -> np.ndarray:
    """Return the slot of each row, int32 numpy [rows]; K * C where it is in no list."""
    slots = np.flatnonzero(lists.ravel() >= 0)
    positions = np.full(rows, lists.size, np.int32)
    positions[lists.ravel()[slots]] = slots
    return positions


def extents_of(lists: jax.Array) -> jax.Array:
    """Return int32 [...]: the slots of lists [..., C] up to the last occupied one."""
    slots = jnp.arange(1, lists.shape[-1] + 1, dtype=jnp.int32)
    return jnp.max(jnp.where(lists >= 0, slots, 0), axis=-1)


def live(index: Index) -> jax.Array:
    """Return bool [n]: which rows hold an item; `allowed` of a brute force over all rows."""
    return index.positions < index.lists.size


def _check_groups(node_of, items, num_nodes):
    node_of = as_integers("node_of", node_of)
    if node_of.shape != (items,):
        raise ValueError(f"node_of: expected shape [{items}], found {list(node_of.shape)}")
    if not 0 <= node_of.min() <= node_of.max() < num_nodes:
        raise ValueError(
            f"node_of: expected nodes 0 to {num_nodes - 1}, found values from {node_of.min()} to "
            f"{node_of.max()}"
        )
    return node_of.astype(np.int32)


@jax.jit
def pack(index: Index, items: Any) -> Tiles:
    """Copy item features into the order of the lists, so that a search reads contiguous tiles.

    Args:
      index: the lists.
      items: array or pytree of arrays, each [n, ...].
    """
    slots = jnp.maximum(index.lists, 0)
    return Tiles(jax.tree.map(lambda feature: jnp.asarray(feature)[slots], items))


def representative_features(index: Index, items: Any) -> Any:
    """Return the features [K, ...] of each node's representative (item 0 for an empty node)."""
    return take_rows(items, index.representatives)


def take_rows(features: Any, rows: ArrayLike) -> Any:
    """Gather rows int [m] of an array or pytree of [n, ...]; -1 gets row 0."""
    rows = jnp.maximum(rows, 0)
    return jax.tree.map(lambda feature: jnp.asarray(feature)[rows], features)


@functools.partial(jax.jit, static_argnames="distance")
def _representatives(vectors, nodes, lists, *, distance):
    def of_node(arguments):
        node, ids = arguments
        row = pairwise_distance(vectors[jnp.maximum(ids, 0)], node[None, :], distance=distance)
        best = jnp.argmin(jnp.where(ids >= 0, row[:, 0], jnp.inf))
        return ids[best]

    return jax.lax.map(of_node, (nodes, lists))


def stats(index: Index) -> dict[str, float]:
    """Measure how evenly the items fill the lists.

    Returns:
      `items`, `nodes`, `capacity`; `used_nodes`; `perplexity`, exp of the entropy of the share
      of items by node (K when even, 1 when collapsed); `max_occupancy`, `mean_occupancy` and
      their ratio `imbalance`; `fill`, occupied share of all slots; `overflow`, items away from
      their nearest node.
    """
    counts = np.asarray(index.counts)
    # An index whose items have all been removed has no distribution: its ratios are 0.
    total = max(counts.sum(), 1)
    share = counts[counts > 0] / total
    mean = counts.sum() / counts.size
    return {
        "items": int(counts.sum()),
        "nodes": int(counts.size),
        "capacity": int(index.lists.shape[1]),
        "used_nodes": int((counts > 0).sum()),
        "perplexity": float(np.exp(-(share * np.log(share)).sum())),
        "max_occupancy": int(counts.max()),
        "mean_occupancy": float(mean),
        "imbalance": float(counts.max() * counts.size / total),
        "fill": float(counts.sum() / index.lists.size),
        "overflow": int(index.overflow),
    }
