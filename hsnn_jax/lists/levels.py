"""Several levels of nodes: nested indexes, their nodes' items, and nodes of residual codes."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hsnn_jax.distance import Distance, pairwise_distance
from hsnn_jax.lists.index import Index, build_index


def build_levels(
    item_vectors: ArrayLike,
    nodes: Sequence,
    *,
    parents: Sequence | None = None,
    slack: float = 2.0,
    reserve: int = 0,
    distance: Distance = "l2",
) -> tuple[Index, ...]:
    """Nest indexes: a level lists the nodes of the next finer one, the finest lists the items.

    Args:
      item_vectors: float [n, d].
      nodes: float [K_l, d] of each level, the coarsest first.
      parents: optional int arrays, one a level or None for "nearest": the level's node for each
        of what it lists, nodes of the next level or items.
      slack, reserve: of the items' lists, see `build_index`; lists of nodes take no inserts, and
        under given parents they are as long as the largest.
      distance: see `distance.pairwise_distance`.

    Returns:
      `Index` of each level, the coarsest first; `representatives` are ids of what the level
      lists.

    Raises:
      ValueError: no nodes, not one entry of parents a level, or see `build_index`.
    """
    parents = (None,) * len(nodes) if parents is None else parents
    if not nodes or len(parents) != len(nodes):
        raise ValueError(
            f"nodes, parents: expected one each per level, found {len(nodes)} and {len(parents)}"
        )
    listed = (*nodes[1:], item_vectors)
    indexes = []
    for level, (vectors, level_nodes, node_of) in enumerate(zip(listed, nodes, parents)):
        finest = level == len(nodes) - 1
        indexes.append(
            build_index(
                vectors,
                level_nodes,
                slack=slack if finest or node_of is None else 1.0,
                reserve=reserve if finest else 0,
                node_of=node_of,
                distance=distance,
            )
        )
    return tuple(indexes)


@jax.jit
def nodes_of_items(indexes: Sequence[Index]) -> tuple:
    """Return the node of each level that each item is below: int32 [n] an index.

    Args:
      indexes: nested, the coarsest first; a free row has node K everywhere.
    """
    nodes, below = [], None
    for index in reversed(indexes):
        # The position of what is in no list is K * C.
        last = index.lists.size
        position = index.positions
        if below is not None:
            position = position.at[below].get(mode="fill", fill_value=last)
        below = position // index.lists.shape[1]
        nodes.append(below)
    return tuple(reversed(nodes))


@functools.partial(jax.jit, static_argnames="distance")
def representative_items(
    indexes: Sequence[Index], item_vectors: jax.Array, *, distance: Distance = "l2"
) -> tuple:
    """Return the item nearest to each node among those below it: int32 [K_l] an index.

    Args:
      indexes: nested, the coarsest first.
      item_vectors: float [m, d] of the first m rows of items, at least the live ones.
      distance: see `distance.pairwise_distance`.

    Returns:
      Rows of items, -1 for a node without any; ties go to the lower row.

    Source: arXiv 2408.06653v3, the features of a node.
    """

    def of_item(vector, node):
        return pairwise_distance(vector[None, :], node[None, :], distance=distance)[0, 0]

    found, items = [], item_vectors.shape[0]
    for index, node in zip(indexes, nodes_of_items(indexes)):
        num_nodes, node = index.nodes.shape[0], node[:items]
        gap = jax.vmap(of_item)(item_vectors, index.nodes.at[node].get(mode="clip"))
        least = jax.ops.segment_min(gap, node, num_nodes)
        rows = jnp.where(gap == least.at[node].get(mode="clip"), jnp.arange(items), items)
        row = jnp.minimum(jax.ops.segment_min(rows, node, num_nodes), items)
        found.append(jnp.where(row == items, -1, row).astype(jnp.int32))
    return tuple(found)


def representatives_of_items(
    indexes: Sequence[Index], item_vectors: jax.Array, *, distance: Distance = "l2"
) -> tuple:
    """Return the representative of the node that each item is below: int32 [n] an index.

    See `representative_items`; a free row has any.
    """
    found = representative_items(indexes, item_vectors, distance=distance)
    return tuple(
        rows.at[node].get(mode="clip") for rows, node in zip(found, nodes_of_items(indexes))
    )


def residual_nodes(codebooks: Any) -> tuple[tuple, tuple]:
    """Return the nodes and parents, for `build_levels`, of residual codebooks.

    A node of level l is a sum of one code of each level up to l, so that there are
    K_1 * ... * K_l of them; its parent is the sum without the last code.

    Args:
      codebooks: float [K_l, d] of each level, the coarsest first.

    Returns:
      (nodes, parents): float [K_1 ... K_l, d] a level; int32 arrays, None for the items.
    """
    nodes, parents = [jnp.asarray(codebooks[0])], []
    for codes in codebooks[1:]:
        coarse, width = nodes[-1], codes.shape[1]
        nodes.append((coarse[:, None, :] + jnp.asarray(codes)[None, :, :]).reshape(-1, width))
        parents.append(np.repeat(np.arange(coarse.shape[0], dtype=np.int32), codes.shape[0]))
    return tuple(nodes), (*parents, None)
