"""Roots by the coupled Newton iteration: products only."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from shampoo_jax.roots.padding import (
    add_ridge,
    fill_diagonal,
    matrix_power,
    norm,
    product,
    real_rows,
)
from shampoo_jax.roots.power import iterated_root
from shampoo_jax.roots.refreshed import Refreshed, largest_eigenvalue


def newton_root(
    a: jax.Array,
    size: jax.Array,
    previous: jax.Array,
    *,
    exponent: float,
    eps: ArrayLike,
    relative_eps: bool,
    tolerance: float = 1e-6,
    max_iterations: int = 100,
) -> Refreshed:
    """Compute A^-(1/r) by the coupled Newton iteration, r = 1 / exponent an integer.

    Only products, at full float32 precision; stops when max|M - I| <= `tolerance` or after
    `max_iterations`. A relative eps is taken of |A|_F (>= lambda_max). A program that
    differentiates also decomposes A.

    Raises:
      ValueError: 1 / exponent is not an integer.
    """
    del previous
    r = round(1 / exponent)
    if abs(r * exponent - 1) > 1e-6:
        raise ValueError(f"exponent: expected 1 / integer for newton_root, found {exponent}")

    def solve(a, real):
        return _iterate(a, real, r, tolerance, max_iterations)

    real = real_rows(a, size)
    shifted = add_ridge(a, real, jnp.asarray(eps * norm(a) if relative_eps else eps))
    x, error = iterated_root(solve, exponent)(shifted, real)
    condition = largest_eigenvalue(shifted) * largest_eigenvalue(x) ** r
    return Refreshed(x, error, condition)


def _iterate(a, real, r, tolerance, max_iterations):
    """Return A^-(1/r) and max|M - I|."""
    z = (r + 1) / (2 * jnp.linalg.norm(a))
    eye = jnp.eye(a.shape[-1], dtype=a.dtype)
    m = fill_diagonal(z * a, real, 1)  # the padding of M is the identity from the start
    x = jnp.diag(jnp.where(real, z ** (1 / r), 0).astype(a.dtype))

    def error(m):
        return jnp.abs(m - eye).max()

    def unfinished(carry):
        _, m, i = carry
        return (error(m) > tolerance) & (i < max_iterations)

    def step(carry):
        x, m, i = carry
        t = (1 + 1 / r) * eye - m / r
        return product(x, t), product(matrix_power(t, r), m), i + 1

    x, m, _ = lax.while_loop(unfinished, step, (x, m, 0))
    return x, error(m)
