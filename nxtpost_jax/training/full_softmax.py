"""The softmax over a whole catalogue, a chunk of it at a time, on one device or dealt over many.

Shape suffixes: P positions, N items, K items a chunk, D model width.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from nxtpost_jax.arrays import Array

# A logit that no item has, and finite: a device that holds padding alone must not give NaN.
_LOWEST = -1e30
_CACHED = 2**21  # products that a CPU's cache holds


def chunked_logsumexp(queries_PxD: Array, items_NxD: Array, *, chunk: int) -> jax.Array:
    """Compute log sum over items of exp(query . item) without ever holding all P x N products.

    The scan keeps a running maximum and sum; the backward pass computes each chunk's products
    again, unless there is one chunk only (on a CPU also then). Memory besides the arguments and
    their gradients: O(P (chunk + N / chunk)).

    Args:
      queries_PxD: f32[P, D], divided by the temperature already.
      items_NxD: f32[N, D].
      chunk: the most items a chunk; the chunks are of equal size.

    Returns:
      f32[P].
    """
    if len(items_NxD) <= chunk:
        return jax.lax.platform_dependent(
            queries_PxD, items_NxD, cpu=_rows_at_a_time, default=_logsumexp
        )
    top_P, total_P = _running_sums(queries_PxD, items_NxD, len(items_NxD), chunk)
    return top_P + jnp.log(total_P)


def raised_logsumexp(
    queries_PxD: Array, items_NxD: Array, *, raised_MxN: Array, moments_P: Array
) -> jax.Array:
    """Compute log sum over items of exp(query . item + what the item is raised by at the moment).

    Args:
      queries_PxD, items_NxD: as in `chunked_logsumexp`.
      raised_MxN: f32[M, N], at each of M moments.
      moments_P: int32[P], each query's.

    Returns:
      f32[P]. Products are held for some rows at a time, and computed again in the backward pass.
    """

    def of(queries_RxD, moments_R):
        products_RxN = queries_RxD @ items_NxD.T
        return jax.nn.logsumexp(products_RxN + jnp.take(raised_MxN, moments_R, axis=0), axis=1)

    return _in_passes(of, len(items_NxD), queries_PxD, moments_P)


def _logsumexp(queries_PxD, items_NxD):
    return jax.nn.logsumexp(queries_PxD @ items_NxD.T, axis=1)


def _rows_at_a_time(queries_PxD, items_NxD):
    return _in_passes(
        lambda queries_RxD: _logsumexp(queries_RxD, items_NxD), len(items_NxD), queries_PxD
    )


def _in_passes(of, width: int, *parts):
    """Compute `of` of so few rows at a time that `width` products each stay in a CPU's cache: [P].

    To compute them again in the backward pass is then faster than to store and fetch them.
    """
    num_rows = len(parts[0])
    passes = math.ceil(num_rows * width / _CACHED)
    if passes == 1:
        return of(*parts)

    def split(part):
        # A pass takes every so-many-th row: a device that holds a run of rows takes part in each.
        padded = _pad_to_multiple(part, passes)
        return jnp.moveaxis(padded.reshape(-1, passes, *part.shape[1:]), 1, 0)

    of_pass = jax.checkpoint(of)
    found_xR = jax.lax.map(lambda rows: of_pass(*rows), tuple(map(split, parts)))
    return found_xR.T.reshape(-1)[:num_rows]


def sharded_logsumexp(
    queries_PxD: Array,
    items_NxD: Array,
    *,
    mesh: Mesh,
    axis: str | tuple[str, ...],
    chunk: int,
) -> jax.Array:
    """Compute `chunked_logsumexp` with the items dealt over a mesh.

    Each device runs through the chunks of its own items; maximum and sum are then reduced over
    the mesh, P numbers each, and no products are exchanged. Every device gets all queries.

    Args:
      queries_PxD, items_NxD, chunk: as in `chunked_logsumexp`; N need not divide.
      mesh: the devices.
      axis: the mesh axis, or a tuple of axes, that items are dealt over.

    Returns:
      f32[P], on every device.
    """
    num_items = len(items_NxD)
    axes = (axis,) if isinstance(axis, str) else tuple(axis)
    items_NxD = _pad_to_multiple(items_NxD, math.prod(mesh.shape[name] for name in axes))

    def local(queries_PxD, items_NxD):
        left = num_items - jax.lax.axis_index(axes) * len(items_NxD)
        # Each device's sums are its own, so the scan's carry must start as such.
        queries_PxD = jax.lax.pcast(queries_PxD, axes, to="varying")
        top_P, total_P = _running_sums(queries_PxD, items_NxD, left, chunk)
        highest_P = jax.lax.pmax(jax.lax.stop_gradient(top_P), axes)
        total_P = jax.lax.psum(total_P * jnp.exp(top_P - highest_P), axes)
        return highest_P + jnp.log(total_P)

    return jax.shard_map(local, mesh=mesh, in_specs=(P(), P(axes)), out_specs=P())(
        queries_PxD, items_NxD
    )


def _running_sums(queries_PxD, items_NxD, num_items, chunk: int) -> tuple[jax.Array, jax.Array]:
    """Reduce the first `num_items` items: the largest logit f32[P], and sum exp(logit - it)."""
    num_items = jnp.minimum(num_items, len(items_NxD))
    size = math.ceil(len(items_NxD) / math.ceil(len(items_NxD) / chunk))
    items_NxD = _pad_to_multiple(items_NxD, size)
    chunks_xKxD = items_NxD.reshape(-1, size, items_NxD.shape[1])
    real_xK = (jnp.arange(len(items_NxD)) < num_items).reshape(-1, size)

    @jax.checkpoint
    def add_chunk(carry, chunk):
        (top_P, total_P), (items_KxD, real_K) = carry, chunk
        logits_PxK = jnp.where(real_K[None, :], queries_PxD @ items_KxD.T, _LOWEST)
        # The result does not depend on the maximum, so neither does its gradient.
        new_top_P = jax.lax.stop_gradient(jnp.maximum(top_P, jnp.max(logits_PxK, axis=1)))
        total_P *= jnp.exp(top_P - new_top_P)
        total_P += jnp.sum(jnp.exp(logits_PxK - new_top_P[:, None]), axis=1)
        return (new_top_P, total_P), None

    # Zeros made from the queries vary over the mesh where these do.
    zeros_P = jax.lax.stop_gradient(queries_PxD[:, 0]) * 0
    sums, _ = jax.lax.scan(add_chunk, (zeros_P + _LOWEST, zeros_P), (chunks_xKxD, real_xK))
    return sums


def _pad_to_multiple(rows, multiple: int):
    return jnp.pad(rows, ((0, -len(rows) % multiple), *((0, 0) for _ in rows.shape[1:])))
