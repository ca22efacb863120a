"""The index: nodes and fixed-capacity lists of items, as a pytree of arrays."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hsnn_jax.assignment import assign
from hsnn_jax.distance import Distance, nearest, pairwise_distance


class Index(NamedTuple):
    """One level of a hierarchy over n items: K nodes, each with a list of C slots.

    The items of a level may themselves be nodes of a finer one; an id is a row of that level.
    """

    nodes: jax.Array  # float32 [K, d]
    lists: jax.Array  # int32 [K, C]: item ids, -1 in a free slot
    counts: jax.Array  # int32 [K]: occupied slots
    positions: jax.Array  # int32 [n]: an item's slot, node * C + column
    representatives: jax.Array  # int32 [K]: the listed item nearest to the node, -1 if none
    overflow: jax.Array  # int32 []: items that their nearest node had no room for


class Tiles(NamedTuple):
    """Item features laid out by slot: every leaf is [K, C, ...], free slots repeat item 0."""

    features: Any


def build_index(
    item_vectors, nodes, *, capacity: int | None = None, slack=2.0, distance: Distance = "l2"
):
    """Assign items to nodes and lay out the lists.

    Args:
      item_vectors: float [n, d].
      nodes: float [K, d], from k-means or LTI.
      capacity: slots of a list; by default `slack` times the mean number of items of a node.
      slack: >= 1; room for unequal lists and for later inserts.
      distance: see `distance.pairwise_distance`.

    Returns:
      `Index`.

    Raises:
      ValueError: the widths differ, or the capacity cannot hold all items.
    """
    items, num_nodes = item_vectors.shape[0], nodes.shape[0]
    if capacity is None:
        capacity = math.ceil(slack * items / num_nodes)
    lists = assign(item_vectors, nodes, capacity, distance=distance)
    slots = np.flatnonzero(lists.ravel() >= 0)
    positions = np.empty(items, np.int32)
    positions[lists.ravel()[slots]] = slots
    wanted, _ = nearest(jnp.asarray(item_vectors), jnp.asarray(nodes), distance=distance)
    return Index(
        nodes=jnp.asarray(nodes, jnp.float32),
        lists=jnp.asarray(lists),
        counts=jnp.asarray((lists >= 0).sum(axis=1), jnp.int32),
        positions=jnp.asarray(positions),
        representatives=_representatives(item_vectors, nodes, lists, distance),
        overflow=jnp.asarray(np.sum(np.asarray(wanted) != positions // capacity), jnp.int32),
    )


@jax.jit
def pack(index: Index, items) -> Tiles:
    """Copy item features into the order of the lists, so that a search reads contiguous tiles.

    Args:
      index: the lists.
      items: array or pytree of arrays, each [n, ...].
    """
    slots = jnp.maximum(index.lists, 0)
    return Tiles(jax.tree.map(lambda feature: jnp.asarray(feature)[slots], items))


def representative_features(index: Index, items):
    """Return the features [K, ...] of each node's representative (item 0 for an empty node)."""
    rows = jnp.maximum(index.representatives, 0)
    return jax.tree.map(lambda feature: jnp.asarray(feature)[rows], items)


def _representatives(item_vectors, nodes, lists, distance):
    def of_node(arguments):
        node, ids = arguments
        row = pairwise_distance(vectors[jnp.maximum(ids, 0)], node[None, :], distance=distance)
        best = jnp.argmin(jnp.where(ids >= 0, row[:, 0], jnp.inf))
        return ids[best]

    vectors = jnp.asarray(item_vectors)
    return jax.lax.map(of_node, (jnp.asarray(nodes), jnp.asarray(lists)))


def stats(index: Index) -> dict[str, float]:
    """Measure how evenly the items fill the lists.

    Returns:
      `items`, `nodes`, `capacity`; `used_nodes`; `perplexity`, exp of the entropy of the share
      of items by node (K when even, 1 when collapsed); `max_occupancy`, `mean_occupancy` and
      their ratio `imbalance`; `fill`, occupied share of all slots; `overflow`, items away from
      their nearest node.
    """
    counts = np.asarray(index.counts)
    share = counts[counts > 0] / counts.sum()
    mean = counts.sum() / counts.size
    return {
        "items": int(counts.sum()),
        "nodes": int(counts.size),
        "capacity": int(index.lists.shape[1]),
        "used_nodes": int((counts > 0).sum()),
        "perplexity": float(np.exp(-(share * np.log(share)).sum())),
        "max_occupancy": int(counts.max()),
        "mean_occupancy": float(mean),
        "imbalance": float(counts.max() / mean),
        "fill": float(counts.sum() / index.lists.size),
        "overflow": int(index.overflow),
    }
