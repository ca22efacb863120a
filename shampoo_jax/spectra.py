"""Eigenvalues of the factors, kept beside their eigenvectors.

They are the diagonal of Q^T A Q in the basis Q of the last refresh, with the shift and the ridge of
`roots.eigh_root`: never below eps. The padding holds 1.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import PrecisionLike
from jax.typing import ArrayLike

from shampoo_jax.plan import Pool
from shampoo_jax.products import along_all, rotated_diagonal, scale


def spectrum(
    a: jax.Array, q: jax.Array, size: jax.Array, *, eps: ArrayLike, relative_eps: bool
) -> jax.Array:
    """Return the eigenvalues `[..., d]` of A + eps I in the basis Q, exact if Q diagonalises A.

    Args:
      a: `[..., d, d]`, zero in the padding.
      q: `[..., d, d]`, columns are the basis.
      size: int32 `[...]`, true size of A.
      eps: ridge; a multiple of the largest eigenvalue if `relative_eps`.
      relative_eps: see `eps`.
    """
    lam = rotated_diagonal(a, q.astype(a.dtype))
    real = _real(lam, size)
    # Below zero are only rounding errors: the shift that mends them is no function of A.
    lowest = lax.stop_gradient(jnp.where(real, lam, jnp.inf).min(-1, keepdims=True))
    largest = jnp.where(real, lam, 0).max(-1, keepdims=True)
    ridge = jnp.asarray(eps, a.dtype) * (largest if relative_eps else 1)
    return jnp.where(real, lam - jnp.minimum(lowest, 0) + ridge, 1)


def _real(lam: jax.Array, size: jax.Array) -> jax.Array:
    return lax.broadcasted_iota(jnp.int32, lam.shape, lam.ndim - 1) < size[..., None]


def condition(lam: jax.Array, size: jax.Array) -> jax.Array:
    """Largest over smallest eigenvalue `[...]`, padding left out."""
    real, lam = _real(lam, size), lax.stop_gradient(lam)
    return jnp.where(real, lam, -jnp.inf).max(-1) / jnp.where(real, lam, jnp.inf).min(-1)


def inverse_powers(lam: jax.Array, exponent: float) -> jax.Array:
    """lam^-exponent, and 0 where an eigenvalue is 0."""
    return jnp.where(lam > 0, jnp.where(lam > 0, lam, 1) ** -exponent, 0)


def direction(
    f: jax.Array,
    bases: Sequence[jax.Array],
    spectra: Sequence[jax.Array],
    pool: Pool,
    *,
    precision: PrecisionLike,
) -> jax.Array:
    """Multiply F `[n, *dims]` by A_k^-e_k = Q_k diag(lam_k^-e_k) Q_k^T along every dim."""
    x = along_all(f, bases, pool.preconditioned, transpose=True, precision=precision)
    for axis, lam in zip(pool.preconditioned, spectra):
        x = scale(x, inverse_powers(lam, pool.exponents[axis]), axis)
    return along_all(x, bases, pool.preconditioned, precision=precision)
