"""Hard assignment of items to nodes under a capacity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hsnn_jax.distance import Distance, nearest
from hsnn_jax.lists.checks import as_vectors

_MAX_ROWS = 2**17  # that one call of `nearest` takes


def assign(
    vectors: ArrayLike, nodes: jax.Array | np.ndarray, *, capacity: int, distance: Distance = "l2"
) -> np.ndarray:
    """Put every item into the list of its nearest node that has room.

    In each round every unplaced item asks its nearest node that is not full; a node takes the
    nearest of those that ask (ties: the lower id) up to its free slots. A round that leaves an
    item unplaced fills a node, so there are at most K rounds. Runs on the host, offline.

    Args:
      vectors: float [n, d] item vectors; the item's id is its row.
      nodes: float [K, d].
      capacity: slots of a list, C; K * C >= n.
      distance: see `distance.pairwise_distance`.

    Returns:
      int32 [K, C] numpy array of ids, ascending in a list, -1 in free slots.

    Raises:
      ValueError: vectors or nodes are not finite or differ in width, or the capacity cannot hold
        all items.
    """
    node_of, _ = place(vectors, nodes, capacity=capacity, distance=distance)
    return list_by(node_of, nodes.shape[0], capacity=capacity)


def place(
    vectors: ArrayLike, nodes: ArrayLike, *, capacity: int, distance: Distance = "l2"
) -> tuple[np.ndarray, np.ndarray]:
    """Return int32 [n] twice: the node of each item by the rule of `assign`, and its nearest."""
    vectors = np.asarray(as_vectors("vectors", vectors))
    nodes = jnp.asarray(as_vectors("nodes", nodes, width=vectors.shape[1]))
    check_capacity(vectors.shape[0], nodes.shape[0], capacity=capacity)
    node_of = np.full(vectors.shape[0], -1, np.int32)
    free = np.full(nodes.shape[0], capacity)
    waiting = np.arange(vectors.shape[0])
    asked, distances = nearest_of_rows(vectors, nodes, distance=distance)
    wanted = asked
    while waiting.size:
        order = np.lexsort((waiting, distances, asked))
        taken = order[_rank_in_group(asked[order]) < free[asked[order]]]
        node_of[waiting[taken]] = asked[taken]
        free -= np.bincount(asked[taken], minlength=free.size)
        waiting = np.flatnonzero(node_of < 0)
        given = {"rows": waiting, "blocked": free == 0, "distance": distance}
        asked, distances = nearest_of_rows(vectors, nodes, **given)
    return node_of, wanted


@functools.partial(jax.jit, static_argnames=("capacity", "distance"))
def assign_rows(
    vectors: jax.Array,
    nodes: jax.Array,
    *,
    waiting: jax.Array,
    capacity: int,
    distance: Distance = "l2",
) -> tuple[jax.Array, jax.Array]:
    """Follow the rule of `assign` on the device, with shapes that do not depend on the data.

    Args:
      vectors: float [n, d].
      nodes: float [K, d].
      waiting: bool [n], the rows to place; at most K * capacity of them.
      capacity: static slots of a list.
      distance: see `distance.pairwise_distance`.

    Returns:
      (int32 [n] node of each row, K where it does not wait; int32 [n] its nearest).
    """
    num_nodes, rows = nodes.shape[0], vectors.shape[0]

    def answer(carry, asked, distances):
        node_of, waiting, free = carry
        asked = jnp.where(waiting, asked, num_nodes)
        order = jnp.argsort(distances, stable=True)  # ties go to the lower row
        rank = jnp.zeros(rows, jnp.int32).at[order].set(rank_in_group(asked[order]))
        free = jnp.pad(free, (0, 1))  # node K, of the rows that do not ask, has no room
        taken = rank < free[asked]
        node_of = jnp.where(taken, asked, node_of)
        free -= jax.ops.segment_sum(taken.astype(jnp.int32), asked, num_nodes + 1)
        return node_of, waiting & ~taken, free[:-1]

    def ask(carry):
        return answer(carry, *nearest(vectors, nodes, distance=distance, blocked=carry[2] == 0))

    start = jnp.full(rows, num_nodes, jnp.int32), waiting, jnp.full(num_nodes, capacity, jnp.int32)
    wanted, distances = nearest(vectors, nodes, distance=distance)
    first = answer(start, wanted, distances)
    return jax.lax.while_loop(lambda carry: jnp.any(carry[1]), ask, first)[0], wanted


def rank_in_group(groups: jax.Array) -> jax.Array:
    """Return int32 [n]: how many earlier elements are in the group, int [n], of each element."""
    order = jnp.argsort(groups, stable=True)
    in_order = groups[order]
    first = jnp.searchsorted(in_order, in_order, method="sort")
    rank = (jnp.arange(groups.size) - first).astype(jnp.int32)
    return jnp.zeros_like(rank).at[order].set(rank)


def check_capacity(items: int, num_nodes: int, *, capacity: int) -> None:
    """Raise a ValueError where the lists cannot hold all items."""
    if num_nodes * capacity < items:
        raise ValueError(
            f"capacity: expected at least {-(-items // num_nodes)} for {items} rows in "
            f"{num_nodes} nodes, found {capacity}"
        )


def nearest_of_rows(
    vectors: np.ndarray,
    nodes: jax.Array,
    *,
    rows: np.ndarray | None = None,
    blocked: np.ndarray | None = None,
    distance: Distance = "l2",
) -> tuple[np.ndarray, np.ndarray]:
    """Return int32 [m] nearest nodes and float32 [m] distances, a bounded part at a time.

    Args:
      vectors: float [n, d], on the host.
      nodes: float [K, d].
      rows: int [m], which vectors; all by default.
      blocked, distance: see `distance.nearest`.
    """
    wanted = np.arange(vectors.shape[0]) if rows is None else rows
    # Always given: without it, it would be another program.
    blocked = np.zeros(nodes.shape[0], bool) if blocked is None else blocked
    asked = np.empty(wanted.size, np.int32)
    distances = np.empty(wanted.size, np.float32)
    for first in range(0, wanted.size, _MAX_ROWS):
        rows = wanted[first : first + _MAX_ROWS]
        # Padded to a power of two, so that few shapes are compiled.
        padded = np.zeros((1 << (rows.size - 1).bit_length(), vectors.shape[1]), vectors.dtype)
        padded[: rows.size] = vectors[rows]
        part = slice(first, first + rows.size)
        found = nearest(padded, nodes, distance=distance, blocked=blocked)
        asked[part], distances[part] = (np.asarray(x)[: rows.size] for x in found)
    return asked, distances


def _rank_in_group(groups):
    """Return each element's position within its run of equal, sorted groups."""
    starts = np.r_[True, groups[1:] != groups[:-1]]
    return np.arange(groups.size) - np.flatnonzero(starts)[np.cumsum(starts) - 1]


def list_by(node_of: np.ndarray, num_nodes: int, *, capacity: int) -> np.ndarray:
    """Lay out given nodes int [n] as lists int32 [K, C], ids ascending, -1 in free slots."""
    lists = np.full((num_nodes, capacity), -1, np.int32)
    order = np.argsort(node_of, kind="stable")
    nodes = node_of[order]
    lists[nodes, _rank_in_group(nodes)] = order
    return lists
