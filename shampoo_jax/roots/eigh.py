"""Roots and bases by eigendecomposition."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from shampoo_jax.roots.decompositions import eigh, rotate
from shampoo_jax.roots.diagonality import nearly_diagonal
from shampoo_jax.roots.padding import add_ridge, real_rows
from shampoo_jax.roots.power import spectral_root
from shampoo_jax.roots.refreshed import Refreshed, ends, probe_residual, ratio


def eigh_root(
    a: jax.Array,
    size: jax.Array,
    previous: jax.Array,
    *,
    exponent: float,
    eps: ArrayLike,
    relative_eps: bool,
) -> Refreshed:
    """Compute A^-exponent by eigendecomposition.

    A negative smallest eigenvalue is shifted to zero with the whole spectrum, then eps is added
    (eps * lambda_max if `relative_eps`): the smallest eigenvalue is never below eps. In exact
    arithmetic this is also the reference's `perturb_before_computation`, which adds eps first.
    """
    del previous
    real = real_rows(a, size)
    q, lam = eigh(a, real)
    lowest, largest = ends(lam, size)
    ridge = eps * largest if relative_eps else eps
    # Below zero are only rounding errors: the shift that mends them is no function of A.
    shift = ridge - jnp.minimum(lax.stop_gradient(lowest), 0)
    root = spectral_root(exponent, a, shift, q, lam, real, real)
    condition = (largest + shift) / (lowest + shift)
    return Refreshed(root, probe_residual(a, q, lam, size), condition)


def eigh_basis(
    a: jax.Array,
    size: jax.Array,
    previous: jax.Array,
    *,
    exponent: float,
    eps: ArrayLike,
    relative_eps: bool,
    tolerance: float = 0.0,
) -> Refreshed:
    """Compute the eigenvectors of A, columns in ascending order of eigenvalue, padding last.

    With `tolerance` > 0 the refresh is adaptive: the previous basis is kept, and nothing is
    decomposed, while the part of Q^T (A + eps I) Q off the diagonal has at most `tolerance` times
    the norm of the whole.
    """
    del exponent
    real = real_rows(a, size)

    def decompose(previous):
        del previous
        q, lam = eigh(a, real)
        return q, probe_residual(a, q, lam, size), ratio(lam, real)

    def keep(previous):
        condition = ratio(jnp.diagonal(rotated), real)
        return previous, jnp.zeros_like(condition), condition

    if not tolerance:
        return Refreshed(*decompose(previous))
    ridge = eps * jnp.trace(a) if relative_eps else eps
    rotated = rotate(add_ridge(a, real, jnp.asarray(ridge)), previous)
    good = nearly_diagonal(rotated, tolerance)
    return Refreshed(*lax.cond(good, keep, decompose, previous))
