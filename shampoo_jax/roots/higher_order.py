"""Roots by the coupled iteration of higher order: products only, any fraction."""

import fractions

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from shampoo_jax.roots.padding import (
    add_ridge,
    fill_diagonal,
    matrix_power,
    product,
    real_rows,
)
from shampoo_jax.roots.power import iterated_root
from shampoo_jax.roots.refreshed import Refreshed, largest_eigenvalue


def higher_order_root(
    a: jax.Array,
    size: jax.Array,
    previous: jax.Array,
    *,
    exponent: float,
    eps: ArrayLike,
    relative_eps: bool,
    rel_epsilon: float = 0.0,
    abs_epsilon: float = 0.0,
    order: int = 3,
    tolerance: float = 1e-8,
    max_iterations: int = 100,
) -> Refreshed:
    """Compute A^-(q/p) by a coupled iteration of Newton's kind, q / p = exponent a fraction.

    A step multiplies X by the first `order` terms of the series of (I - B)^(-1/p), B = I - M, and
    stops when max|M - I| <= `tolerance`, when it no longer falls, or after `max_iterations`. The
    ridge is max(`rel_epsilon` * the largest sum of a row of |A|, `abs_epsilon`); the optimizer's
    eps is not used. A program that differentiates also decomposes A.

    Raises:
      ValueError: the exponent is no fraction with a denominator of at most 1,000, or `order` < 2.
    """
    del previous, eps, relative_eps
    fraction = fractions.Fraction(exponent).limit_denominator(1000)
    if abs(fraction - fractions.Fraction(exponent)) > 1e-6 or fraction <= 0:
        raise ValueError(
            f"exponent: expected a fraction q / p with p <= 1000 for higher_order_root, "
            f"found {exponent}"
        )
    if order < 2:
        raise ValueError(f"order: expected at least 2, found {order}")

    def solve(a, real):
        return _iterate(a, real, fraction, order, tolerance, max_iterations)

    real = real_rows(a, size)
    ridge = jnp.maximum(rel_epsilon * jnp.abs(a).sum(1).max(), abs_epsilon)
    shifted = add_ridge(a, real, ridge)
    x, error = iterated_root(solve, exponent)(shifted, real)
    condition = largest_eigenvalue(shifted) * largest_eigenvalue(x) ** (1 / exponent)
    return Refreshed(x, error, condition)


def _coefficients(p: int, order: int) -> list[float]:
    """Return b_0 ... b_(order - 1) of the series of (1 - x)^(-1/p)."""
    b = [1.0]
    for j in range(1, order):
        b.append(b[-1] * (1 + (j - 1) * p) / (j * p))
    return b


def _iterate(a, real, fraction, order, tolerance, max_iterations):
    """Return A^-fraction and max|M - I|."""
    q, p = fraction.numerator, fraction.denominator
    b = _coefficients(p, order)
    eye = jnp.eye(a.shape[-1], dtype=a.dtype)

    def error(m):
        return jnp.abs(m - eye).max()

    def step(x, m, t):
        return product(x, t), product(matrix_power(t, p), m)

    def unfinished(carry):
        _, _, last, i, stuck = carry
        return (last > tolerance) & (i < max_iterations) & ~stuck

    def iterate(carry):
        x, m, last, i, _ = carry
        rest = eye - m
        t = b[-1] * eye  # Horner's scheme
        for c in reversed(b[:-1]):
            t = c * eye + product(t, rest)
        x, m = step(x, m, t)
        new = error(m)
        stuck = (new > 1.2 * last) | ((new == last) & (new < 1e-3))
        return x, m, new, i + 1, stuck

    z = 1 / jnp.trace(a)
    m = fill_diagonal(z * a, real, 1)  # the padding of M is the identity from the start
    x = jnp.diag(jnp.where(real, z ** (1 / p), 0).astype(a.dtype))
    # One step of Newton's first, from which the higher order converges.
    x, m = step(x, m, (1 + 1 / p) * eye - m / p)
    start = (x, m, error(m), 1, jnp.array(False))
    x, _, last, _, _ = lax.while_loop(unfinished, iterate, start)
    return matrix_power(x, q), last
