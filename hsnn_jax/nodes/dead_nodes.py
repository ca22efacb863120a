"""Replacement of nodes that no item uses."""

import jax
import jax.numpy as jnp

from hsnn_jax.distance import Distance, nearest


def replace_dead(
    nodes: jax.Array,
    idle: jax.Array,
    *,
    vectors: jax.Array,
    key: jax.Array,
    dead_after: int,
    distance: Distance = "l2",
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Move nodes that were nearest to no vector of the last batches onto vectors far from theirs.

    The new places are drawn without replacement with probability proportional to the squared
    distance, as k-means++ draws, so that several dead nodes do not all go to one place.

    Args:
      nodes: float [K, d].
      idle: int32 [K], batches since a vector used the node.
      vectors: float [B, d], this batch.
      key: PRNG key of the draw.
      dead_after: static, batches without use after which a node is dead; >= 1.
      distance: see `distance.pairwise_distance`.

    Returns:
      (nodes, idle, replaced bool [K]); at most B nodes are replaced at once.
    """
    node, gaps = nearest(vectors, nodes, distance=distance)
    used = jnp.zeros(nodes.shape[0], bool).at[node].set(True)
    idle = jnp.where(used, 0, idle + 1)
    # log 0 = -inf: a vector on its node is drawn last.
    preference = 2 * jnp.log(gaps) + jax.random.gumbel(key, vectors.shape[:1])
    far = jnp.argsort(-preference)
    dead = idle >= dead_after
    rank = jnp.cumsum(dead) - 1
    replaced = dead & (rank < vectors.shape[0])
    chosen = vectors[far[jnp.minimum(rank, vectors.shape[0] - 1)]]
    nodes = jnp.where(replaced[:, None], chosen, nodes)
    return nodes, jnp.where(replaced, 0, idle), replaced
