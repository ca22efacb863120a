"""Symmetric matrices in half the bytes, bit for bit the same.

For A = [[P, Q], [Q^T, R]] with halves of equal sides the packed form is one rectangle: the lower
triangle of R and, one column further right, the upper triangle of P fill `[d/2, d/2 + 1]`, and Q
stands beside them. There is no index arithmetic on single elements, which accelerators dislike. A
matrix of odd side gets a row and a column of zeros.

May import: nothing of shampoo_jax.
"""

import jax
import jax.numpy as jnp
from jax import lax


def packed_shape(side: int) -> tuple[int, int]:
    """Return the shape of a packed matrix `[d, d]`: `[d/2, d + 1]`, d rounded up to even."""
    half = (side + 1) // 2
    return half, 2 * half + 1


def pack(a: jax.Array) -> jax.Array:
    """Pack symmetric matrices `[..., d, d]`."""
    half = (a.shape[-1] + 1) // 2
    a = _pad(a, ((0, a.shape[-1] % 2), (0, a.shape[-1] % 2)))
    p, q, r = a[..., :half, :half], a[..., :half, half:], a[..., half:, half:]
    triangles = jnp.where(_below(half), _pad(r, ((0, 0), (0, 1))), _pad(p, ((0, 0), (1, 0))))
    return jnp.concatenate([triangles, q], axis=-1)


def unpack(packed: jax.Array, side: int) -> jax.Array:
    """Return the symmetric matrices `[..., d, d]` of side d that `pack` was given."""
    half = packed.shape[-2]
    triangles, q = packed[..., : half + 1], packed[..., half + 1 :]
    below = _below(half)
    p = _mirrored(jnp.where(below, 0, triangles)[..., 1:].swapaxes(-1, -2))
    r = _mirrored(jnp.where(below, triangles, 0)[..., :-1])
    top = jnp.concatenate([p, q], axis=-1)
    bottom = jnp.concatenate([q.swapaxes(-1, -2), r], axis=-1)
    return jnp.concatenate([top, bottom], axis=-2)[..., :side, :side]


def _below(half: int) -> jax.Array:
    """Where the rectangle `[half, half + 1]` of both triangles holds the lower one."""
    shape = (half, half + 1)
    return lax.broadcasted_iota(jnp.int32, shape, 1) <= lax.broadcasted_iota(jnp.int32, shape, 0)


def _mirrored(lower: jax.Array) -> jax.Array:
    """Return the symmetric matrices of lower triangles."""
    return lower + jnp.tril(lower, -1).swapaxes(-1, -2)


def _pad(a: jax.Array, last: tuple[tuple[int, int], tuple[int, int]]) -> jax.Array:
    """Pad the last two dims with zeros."""
    return jnp.pad(a, [(0, 0)] * (a.ndim - 2) + list(last)) if any(map(any, last)) else a
