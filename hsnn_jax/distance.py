"""Distances between vectors and nodes, and the nearest node of every vector."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Distance = Literal["l2", "squared_l2", "cosine"]

# [rows, K] distances held at once by `nearest`: 16 MiB of float32.
_MAX_BLOCK = 2**22
_TINY = 1e-12


def pairwise_distance(
    vectors: jax.Array, nodes: jax.Array, *, distance: Distance = "l2"
) -> jax.Array:
    """Return d(j, k) between every vector and every node.

    Both are taken relative to the middle of the nodes: far from the origin the squares would
    leave no digits for the differences.

    Args:
      vectors: float [n, d].
      nodes: float [K, d].
      distance: "l2" is ||v - c||, "squared_l2" its square, "cosine" is 1 - cos(v, c).

    Returns:
      float [n, K], non-negative; differentiable everywhere, coinciding points included.

    Raises:
      ValueError: `distance` is unknown.

    Source: LTI step 1, arXiv 2408.06653v3 (Algorithm 1).
    """
    middle = _middle_for(nodes, distance)
    return _distances(vectors - middle, nodes - middle, distance)


def _middle_for(nodes, distance):
    """Return what is subtracted from vectors and nodes, [1, d]: 0 for angles."""
    if distance not in ("l2", "squared_l2", "cosine"):
        raise ValueError(f"distance: expected 'l2', 'squared_l2' or 'cosine', found {distance!r}")
    return jnp.zeros_like(nodes[:1]) if distance == "cosine" else middle_of(nodes)


def middle_of(points: jax.Array) -> jax.Array:
    """Return about the mean of points float [m, d], as [1, d], without a gradient.

    Rounded to a power of two below their spread: subtracting it from a point is exact wherever
    the difference has few digits, as of integers, and rounds once elsewhere.
    """
    mean = jnp.mean(points, axis=0, keepdims=True)
    spread = jnp.mean(jnp.abs(points - mean))
    step = jnp.ldexp(jnp.ones_like(spread), jnp.frexp(spread)[1] - 3)
    return jax.lax.stop_gradient(jnp.where(spread > 0, jnp.round(mean / step) * step, mean))


def _distances(vectors, nodes, distance):
    if distance == "cosine":
        return jnp.maximum(1.0 - _inner(unit(vectors), unit(nodes)), 0.0)
    squared_vectors = jnp.sum(vectors**2, axis=1)[:, None]
    squared_nodes = jnp.sum(nodes**2, axis=1)[None, :]
    squared = jnp.maximum(squared_vectors + squared_nodes - 2.0 * _inner(vectors, nodes), 0.0)
    return squared if distance == "squared_l2" else jnp.sqrt(squared + _TINY)


def _inner(vectors, nodes):
    # Reduced-precision matmuls (TF32, bfloat16) would move items between close nodes.
    return jnp.einsum("nd,kd->nk", vectors, nodes, precision=jax.lax.Precision.HIGHEST)


def unit(vectors: jax.Array | np.ndarray) -> jax.Array:
    """Scale vectors to length 1 along the last axis; zero stays zero, with a finite gradient."""
    lengths = jnp.sqrt(jnp.sum(vectors**2, axis=-1, keepdims=True) + _TINY)
    return jnp.divide(vectors, lengths)


@functools.partial(jax.jit, static_argnames="distance")
def nearest(
    vectors: jax.Array,
    nodes: jax.Array,
    *,
    distance: Distance = "l2",
    blocked: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return the nearest node of every vector, in blocks of rows that bound the memory.

    Args:
      vectors: float [n, d].
      nodes: float [K, d].
      distance: see `pairwise_distance`.
      blocked: optional bool [K]; True bars a node.

    Returns:
      (int32 [n] node, float [n] distance); ties go to the lower node.
    """
    blocked = jnp.zeros(nodes.shape[0], bool) if blocked is None else blocked
    middle = _middle_for(nodes, distance)
    nodes = nodes - middle

    def of_row(vector):
        row = _distances(vector[None, :] - middle, nodes, distance)[0]
        return first_least(jnp.where(blocked, jnp.inf, row))

    block = max(1, min(vectors.shape[0], _MAX_BLOCK // nodes.shape[0]))
    return jax.lax.map(of_row, vectors, batch_size=block)


def first_least(row: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return (int32 [], its value []) of the least of a row [K]; ties go to the lower index.

    Two plain reductions: XLA:CPU does not vectorise argmin, which takes four times as long as the
    product that makes the row.
    """
    least = jnp.min(row)
    places = jnp.arange(row.size, dtype=jnp.int32)
    # NaN equals nothing: a row that holds one gets the last place.
    return jnp.min(jnp.where(row == least, places, row.size - 1)), least
