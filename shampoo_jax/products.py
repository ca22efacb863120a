"""Products of stacked blocks `[n, *dims]` with stacked matrices `[n, d, d]`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import PrecisionLike

_LETTERS = "abcdefghijklm"


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
    for axis, matrix in zip(axes, matrices, strict=True):
        x = multiply(x, matrix, axis, transpose=transpose, precision=precision)
    return x


def scale(x: jax.Array, factors: jax.Array, axis: int) -> jax.Array:
    """Multiply `[n, *dims]` by `[n, d]` along one dim."""
    shape = [x.shape[0], *(1,) * (x.ndim - 1)]
    shape[axis + 1] = x.shape[axis + 1]
    return x * factors.reshape(shape)


def rotated_diagonal(a: jax.Array, q: jax.Array) -> jax.Array:
    """Diagonal of Q^T A Q `[..., d]`, at full precision of the dtype on all devices."""
    return jnp.sum(q * jnp.matmul(a, q, precision=lax.Precision.HIGHEST), axis=-2)
