"""Products of stacked blocks `[n, *dims]` with stacked matrices `[n, d, d]`.

On CPU they go through the stack in chunks that stay in a core's cache: what is multiplied is added
and multiplied again before it leaves. One product over the whole stack takes 1.4 times as long.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import PrecisionLike

Rows = TypeVar("Rows")

_LETTERS = "abcdefghijklm"
_CHUNK = 2**16  # elements of a chunk of blocks: 256 KiB in float32, of a cache of 1 or 2 MiB


def in_chunks(one: Callable[..., Rows], old: Rows, *others: Any, block: Sequence[int]) -> Rows:
    """Replace rows `[n, ...]` by what `one` makes of them: in chunks on CPU, at once elsewhere.

    Args:
      one: maps rows of `old` and of `others` to new rows of `old`; rows know nothing of each other.
      old: tree of arrays `[n, ...]`; updated in place where XLA may.
      others: trees of arrays `[n, ...]` that are only read.
      block: dims of a block, which say how many rows fit into a chunk.
    """
    rows = jax.tree.leaves(old)[0].shape[0]
    size = chunk_rows(rows, block)
    if size == rows:
        return one(old, *others)

    def loop(old, *others):
        def step(i, new):
            def take(x):
                return lax.dynamic_slice_in_dim(x, i * size, size)

            done = one(*jax.tree.map(take, (new, *others)))
            put = lambda x, v: lax.dynamic_update_slice_in_dim(x, v, i * size, 0)  # noqa: E731
            return jax.tree.map(put, new, done)

        return lax.fori_loop(0, rows // size, step, old)

    return lax.platform_dependent(old, *others, cpu=loop, default=one)


def chunk_rows(rows: int, block: Sequence[int]) -> int:
    """Return a divisor of `rows` that fills a chunk; all rows where only tiny ones divide them."""
    most = max(_CHUNK // math.prod(block), 1)
    largest = max((k for k in range(1, min(most, rows) + 1) if rows % k == 0), default=rows)
    return largest if 8 * largest >= most else rows


def gram(g: jax.Array, axis: int, *, precision: PrecisionLike = None) -> jax.Array:
    """Contract `[n, *dims]` with itself over all dims but one: `[n, d, d]`."""
    dims = _LETTERS[: g.ndim - 1]
    other = dims.replace(dims[axis], "z")
    return jnp.einsum(f"Z{dims},Z{other}->Z{dims[axis]}z", g, g, precision=precision)


def multiply(
    x: jax.Array,
    matrix: jax.Array,
    axis: int,
    *,
    transpose: bool = False,
    precision: PrecisionLike = None,
) -> jax.Array:
    """Multiply `[n, *dims]` by `[n, d, d]` along one dim (by its transpose if asked)."""
    dims = _LETTERS[: x.ndim - 1]
    letters = dims[axis] + "z" if transpose else "z" + dims[axis]
    out = dims.replace(dims[axis], "z")
    return jnp.einsum(f"Z{dims},Z{letters}->Z{out}", x, matrix, precision=precision)


def along_all(
    x: jax.Array,
    matrices: Sequence[jax.Array],
    axes: Sequence[int],
    *,
    transpose: bool = False,
    precision: PrecisionLike = None,
) -> jax.Array:
    """Multiply `[n, *dims]` by one matrix along each of `axes`."""

    def one(x, matrices):
        for axis, matrix in zip(axes, matrices, strict=True):
            x = multiply(x, matrix, axis, transpose=transpose, precision=precision)
        return x

    return in_chunks(one, x, tuple(matrices), block=x.shape[1:]) if axes else x


def scale(x: jax.Array, factors: jax.Array, axis: int) -> jax.Array:
    """Multiply `[n, *dims]` by `[n, d]` along one dim."""
    shape = [x.shape[0], *(1,) * (x.ndim - 1)]
    shape[axis + 1] = x.shape[axis + 1]
    return x * factors.reshape(shape)


def rotated_diagonal(a: jax.Array, q: jax.Array) -> jax.Array:
    """Diagonal of Q^T A Q `[..., d]`, at full precision of the dtype on all devices."""
    return jnp.sum(q * jnp.matmul(a, q, precision=lax.Precision.HIGHEST), axis=-2)
