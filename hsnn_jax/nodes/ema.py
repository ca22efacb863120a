"""A codebook of exponential moving averages: k-means on a stream of batches."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hsnn_jax.distance import Distance, nearest
from hsnn_jax.nodes.dead_nodes import replace_dead


class EMAState(NamedTuple):
    """A codebook in training."""

    nodes: jax.Array  # float32 [K, d]
    counts: jax.Array  # float32 [K], averaged vectors a batch
    sums: jax.Array  # float32 [K, d], averaged sum of those
    idle: jax.Array  # int32 [K], batches since the node was used


def ema_start(nodes: jax.Array, batch_size: int) -> EMAState:
    """Start from nodes that each have had an even share of batches of this size."""
    counts = jnp.full(nodes.shape[0], batch_size / nodes.shape[0])
    idle = jnp.zeros(nodes.shape[0], jnp.int32)
    return EMAState(nodes, counts, nodes * counts[:, None], idle)


@functools.partial(jax.jit, static_argnames=("decay", "dead_after", "distance"))
def ema_update(
    state: EMAState,
    vectors: jax.Array,
    *,
    key: jax.Array,
    decay: float = 0.99,
    dead_after: int = 0,
    distance: Distance = "l2",
) -> EMAState:
    """Move every node to the moving average of the vectors nearest to it.

    Args:
      state: see `EMAState`.
      vectors: float [B, d], a batch.
      key: PRNG key of the replacement of dead nodes.
      decay: weight of the past, in [0, 1).
      dead_after: batches without use after which a node is replaced, see `replace_dead`; 0 for
        never.
      distance: see `distance.pairwise_distance`.

    Source: van den Oord et al. 2017, "Neural discrete representation learning", appendix A.1,
    without its smoothing of the counts: a node without vectors stays where it is.
    """
    num_nodes = state.nodes.shape[0]
    node, _ = nearest(vectors, state.nodes, distance=distance)
    batch_counts = jax.ops.segment_sum(jnp.ones(vectors.shape[0]), node, num_nodes)
    batch_sums = jax.ops.segment_sum(vectors, node, num_nodes)
    counts = decay * state.counts + (1 - decay) * batch_counts
    sums = decay * state.sums + (1 - decay) * batch_sums
    # Below this the average of a node without vectors would lose its digits.
    known = counts > 1e-6
    means = sums / jnp.where(known, counts, 1.0)[:, None]
    nodes, idle = jnp.where(known[:, None], means, state.nodes), state.idle
    if dead_after:
        nodes, idle, replaced = replace_dead(
            nodes, idle, vectors=vectors, key=key, dead_after=dead_after, distance=distance
        )
        # A new node starts as if it had had an even share.
        counts = jnp.where(replaced, vectors.shape[0] / num_nodes, counts)
        sums = jnp.where(replaced[:, None], nodes * counts[:, None], sums)
    return EMAState(nodes, counts, sums, idle)
