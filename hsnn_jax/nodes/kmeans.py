"""k-means on item vectors: the start of a learned index, and the separate index itself."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hsnn_jax.distance import middle_of, nearest, pairwise_distance
from hsnn_jax.lists.checks import as_vectors

# k-means++ seeds from a sample: its k sequential passes over 1e6 vectors would take longer
# than all Lloyd iterations together.
_SEED_SAMPLE_PER_NODE = 64


def kmeans(vectors: ArrayLike, k: int, *, key: jax.Array, iterations: int = 20) -> jax.Array:
    """Cluster vectors by Lloyd's algorithm from a greedy k-means++ start.

    A cluster that loses all its vectors is re-seeded at one of the vectors farthest from their
    centroids. Distances are taken in blocks of rows, so [n, k] is never held.

    Args:
      vectors: float [n, d].
      k: number of centroids, 1 <= k <= n.
      key: PRNG key of the start.
      iterations: Lloyd iterations, >= 1.

    Returns:
      float [k, d] centroids.

    Raises:
      ValueError: `vectors` is not a matrix of finite numbers, `k` is outside [1, n], or
        `iterations` < 1.

    Source: Arthur and Vassilvitskii 2007, "k-means++".
    """
    vectors = as_vectors("vectors", vectors)
    if not 1 <= k <= vectors.shape[0]:
        raise ValueError(f"k: expected 1 to {vectors.shape[0]}, the vectors, found {k}")
    if iterations < 1:
        raise ValueError(f"iterations: expected a number >= 1, found {iterations}")
    return _kmeans(vectors, key, k=k, iterations=iterations)


@functools.partial(jax.jit, static_argnames=("k", "iterations"))
def _kmeans(vectors, key, *, k, iterations):
    # Sums of vectors far from the origin would lose the digits that tell them apart.
    middle = middle_of(vectors)
    vectors = vectors - middle
    sample_key, seed_key = jax.random.split(key)
    size = min(vectors.shape[0], _SEED_SAMPLE_PER_NODE * k)
    rows = jax.random.choice(sample_key, vectors.shape[0], (size,), replace=False)
    start = _plus_plus(vectors[rows], seed_key, k=k)
    step = functools.partial(_lloyd, vectors)
    return middle + jax.lax.fori_loop(0, iterations, lambda _, centroids: step(centroids), start)


def _plus_plus(vectors, key, *, k):
    """Draw k seeds, each from several candidates, which favour vectors far from the others."""
    keys = jax.random.split(key, k)
    first = vectors[jax.random.randint(keys[0], (), 0, vectors.shape[0])]
    trials = 2 + int(math.log(k))

    def draw(i, carry):
        seeds, closest = carry
        rows = draw_rows(keys[i], closest, count=trials)
        distances = pairwise_distance(vectors[rows], vectors, distance="squared_l2")
        closest = jnp.minimum(distances, closest[None, :])
        best = jnp.argmin(jnp.sum(closest, axis=1))
        return seeds.at[i].set(vectors[rows[best]]), closest[best]

    seeds = jnp.zeros((k, vectors.shape[1]), vectors.dtype).at[0].set(first)
    closest = pairwise_distance(first[None, :], vectors, distance="squared_l2")[0]
    return jax.lax.fori_loop(1, k, draw, (seeds, closest))[0]


def draw_rows(key: jax.Array, weights: jax.Array, *, count: int) -> jax.Array:
    """Draw `count` rows, int [count], in proportion to weights float [n] >= 0.

    By the inverse of the cumulative sum: `jax.random.categorical` draws a number a row, which
    takes four times as long as all the rest of k-means++. A row of weight 0 adds nothing to the
    sum and is passed over: a vector that coincides with a seed is not drawn again, unless all do.
    """
    below = jnp.cumsum(weights)
    wanted = below[-1] * jax.random.uniform(key, (count,), weights.dtype)
    return jnp.minimum(jnp.searchsorted(below, wanted, side="right"), weights.size - 1)


def _lloyd(vectors, centroids):
    """Move every centroid to the mean of its vectors; re-seed the empty ones."""
    k = centroids.shape[0]
    nodes, distances = nearest(vectors, centroids, distance="squared_l2")
    sums = jax.ops.segment_sum(vectors, nodes, num_segments=k)
    counts = jax.ops.segment_sum(jnp.ones_like(distances), nodes, num_segments=k)
    means = sums / jnp.maximum(counts, 1.0)[:, None]
    empty = counts == 0
    farthest = jax.lax.top_k(distances, k)[1]
    replacement = vectors[farthest[jnp.cumsum(empty) - 1]]
    return jnp.where(empty[:, None], replacement, means)
