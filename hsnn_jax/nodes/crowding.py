"""Spread nodes over items that crowd, so that lists of one capacity hold what is near them.

k-means lowers squared distances: of 3,600 items in a tight cluster and 400 scattered ones it
gives nearly all nodes to the scattered ones, and lists of bounded length then send most of the
cluster away from home.
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hsnn_jax.distance import Distance
from hsnn_jax.lists.assignment import nearest_of_rows
from hsnn_jax.lists.checks import as_vectors

# Of all items: below it the next nearest node does as well, and nodes stay as they were learned.
_TOLERATED = 0.05
# Of a list, that a node placed in a crowd is to fill: parts of a crowd differ in size.
_FILL = 0.75
_ROUNDS = 20
_IN_VAIN = 4  # rounds in a row: what has not helped by then did not help in twenty either


def split_crowded(
    vectors: ArrayLike,
    nodes: ArrayLike,
    *,
    capacity: int,
    seed: int = 0,
    distance: Distance = "l2",
) -> np.ndarray:
    """Move nodes with few items to where more items are nearest to a node than its list holds.

    In each round a crowded node gets as many nodes as its items would fill, placed at random ones
    of its items and taken from those with the fewest items; then every node moves to the
    mean of its items (a step of Lloyd). It ends when few items are left without room, when four
    rounds in a row left no fewer than one before, or after 20: nodes cannot part items that
    coincide, and tight clusters do not share nodes evenly.

    Args:
      vectors: float [n, d].
      nodes: float [K, d].
      capacity: slots of a list.
      seed: of the items that nodes are placed at.
      distance: see `distance.pairwise_distance`.

    Returns:
      float32 [K, d]: the nodes as they were where at most 5 % of the items have no room, else
      those of the round that left the fewest without.
    """
    vectors = np.asarray(as_vectors("vectors", vectors))
    nodes = np.asarray(as_vectors("nodes", nodes, width=vectors.shape[1]))
    rng, best, least, since = np.random.default_rng(seed), nodes, np.inf, 0
    for _ in range(_ROUNDS):
        node_of, _ = nearest_of_rows(vectors, jnp.asarray(nodes), distance=distance)
        counts = np.bincount(node_of, minlength=len(nodes))
        homeless = np.maximum(counts - capacity, 0).sum()
        since += 1
        if homeless < least:
            best, least, since = nodes, homeless, 0
        if homeless <= _TOLERATED * len(vectors) or since == _IN_VAIN:
            break
        nodes = _moved(vectors, nodes, node_of, counts, capacity, rng)
        nodes = _means(vectors, nodes, distance)
    return best


def _moved(vectors, nodes, node_of, counts, capacity, rng):
    """Place nodes with few items at items of crowded nodes: the nodes after it, float [K, d]."""
    wanted = np.ceil(counts / (_FILL * capacity)).astype(int) - 1
    wanted[counts <= capacity] = 0
    donors = np.argsort(counts, kind="stable")
    donors = donors[counts[donors] <= _FILL * capacity][: wanted.sum()]
    crowded = np.repeat(np.arange(len(nodes)), wanted)
    crowded = rng.permutation(crowded)[: donors.size]
    nodes = nodes.copy()
    for node in np.unique(crowded):
        here = donors[crowded == node]
        nodes[here] = vectors[rng.choice(np.flatnonzero(node_of == node), here.size, False)]
    return nodes


def _means(vectors, nodes, distance):
    """Return the mean of each node's items, float [K, d]; a node without any stays."""
    node_of, _ = nearest_of_rows(vectors, jnp.asarray(nodes), distance=distance)
    counts = np.bincount(node_of, minlength=len(nodes))
    middle = vectors.mean(axis=0, dtype=np.float64)
    sums = np.zeros(nodes.shape)
    np.add.at(sums, node_of, vectors - middle)
    means = middle + sums / np.maximum(counts, 1)[:, None]
    return np.where(counts[:, None] > 0, means, nodes).astype(nodes.dtype)
