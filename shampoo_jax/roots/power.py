"""A^-e from a spectrum, and its derivative, which needs no derivative of eigenvectors.

The derivative of a function f of a symmetric matrix is Q (D o Q^T dA Q) Q^T (Daleckii and Krein),
with the divided differences D_ij = (f(lam_i) - f(lam_j)) / (lam_i - lam_j), f'(lam_i) where the two
are equal. For f = lam^-e they are finite wherever f is.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from shampoo_jax.roots.decompositions import eigh, rotate
from shampoo_jax.roots.padding import product


def _divided_differences(lam, kept, real, exponent):
    """D `[d, d]` of f = lam^-exponent where `kept`, 0 elsewhere; 0 in the padding."""
    safe = jnp.where(kept, lam, 1)
    low = jnp.minimum(safe[:, None], safe[None, :])
    apart = jnp.abs(safe[:, None] - safe[None, :]) / low
    # (1 + apart)^-e - 1 over apart, without cancellation.
    distinct = apart > 0
    slope = jnp.expm1(-exponent * jnp.log1p(apart)) / jnp.where(distinct, apart, 1)
    both = low ** (-exponent - 1) * jnp.where(distinct, slope, -exponent)
    # f is 0 at one of the two: f(lam_i) / (lam_i - lam_j).
    mixed = kept[:, None] & (real & ~kept)[None, :]
    one = (safe**-exponent)[:, None] / jnp.where(mixed, safe[:, None] - lam[None, :], 1)
    one = jnp.where(mixed, one, 0)
    d = jnp.where(kept[:, None] & kept[None, :], both, one + one.T)
    return jnp.where(jnp.isfinite(d), d, 0)  # a root that is refused has no say


def _derivative(change, q, lam, kept, real, exponent):
    """Daleckii and Krein's formula for the change `[d, d]` of the matrix."""
    q = jnp.where(jnp.isfinite(q), q, 0)
    inside = _divided_differences(lam, kept, real, exponent) * rotate((change + change.T) / 2, q)
    return product(product(q, inside), q.T)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def spectral_root(
    exponent: float,
    a: jax.Array,
    shift: jax.Array,
    q: jax.Array,
    lam: jax.Array,
    kept: jax.Array,
    real: jax.Array,
) -> jax.Array:
    """(A + shift I)^-exponent from A = Q diag(lam) Q^T, on the eigenvectors that are `kept`.

    The derivative reads the changes of A and of the shift alone, never those of `q` and `lam`.
    """
    powers = jnp.where(kept, jnp.where(kept, lam + shift, 1) ** -exponent, 0).astype(a.dtype)
    return product(q * powers[None, :], q.T)


@spectral_root.defjvp
def _spectral_root_jvp(exponent, primals, tangents):
    a, shift, q, lam, kept, real = primals
    root = spectral_root(exponent, *primals)
    change = tangents[0] + jnp.diag(jnp.where(real, tangents[1], 0).astype(a.dtype))
    return root, _derivative(change, q, lam + shift, kept, real, exponent)


def iterated_root(
    solve: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]], exponent: float
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Give an iteration `solve(A, real) -> (A^-exponent, error)` the derivative of what it finds.

    It is taken by an eigendecomposition, which only a program that differentiates computes.
    """
    root = jax.custom_jvp(solve)

    @root.defjvp
    def jvp(primals, tangents):
        a, real = primals
        x, error = root(a, real)
        q, lam = eigh(a, real)
        change = _derivative(tangents[0], q, lam, real, real, exponent)
        return (x, error), (change, jnp.zeros_like(error))

    return root
