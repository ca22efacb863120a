"""Padded matrices `[d, d]`: real in the leading `size` rows and columns, zero elsewhere."""

import jax
import jax.numpy as jnp
from jax import lax

HIGHEST = lax.Precision.HIGHEST


def real_rows(a: jax.Array, size: jax.Array) -> jax.Array:
    """Mask bool `[d]` of the rows that are not padding."""
    return jnp.arange(a.shape[-1]) < size


def fill_diagonal(a: jax.Array, real: jax.Array, value: jax.Array | float) -> jax.Array:
    """Put `value` on the padded part of the diagonal."""
    return a + jnp.diag(jnp.where(real, jnp.zeros((), a.dtype), value))


def add_ridge(a: jax.Array, real: jax.Array, ridge: jax.Array) -> jax.Array:
    """A + ridge I, padding left at zero."""
    return a + jnp.diag(jnp.where(real, ridge, 0).astype(a.dtype))


def norm(a: jax.Array) -> jax.Array:
    """Frobenius norm, whose derivative at zero is zero."""
    square = jnp.sum(jnp.square(a))
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """A B at full precision of the dtype, on all devices."""
    return jnp.matmul(a, b, precision=HIGHEST)


def matrix_power(x: jax.Array, n: int) -> jax.Array:
    """x^n by repeated squaring, n >= 1."""
    if n == 1:
        return x
    half = matrix_power(x, n // 2)
    square = product(half, half)
    return square if n % 2 == 0 else product(square, x)
