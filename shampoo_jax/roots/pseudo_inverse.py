"""Roots on the range of a matrix, without a ridge."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from shampoo_jax.roots.decompositions import eigh
from shampoo_jax.roots.padding import real_rows
from shampoo_jax.roots.power import spectral_root
from shampoo_jax.roots.refreshed import Refreshed, ends, probe_residual, ratio


def pseudo_inverse_root(
    a: jax.Array,
    size: jax.Array,
    previous: jax.Array,
    *,
    exponent: float,
    eps: ArrayLike,
    relative_eps: bool,
    rank_rtol: float | None = None,
    rank_atol: float = 0.0,
) -> Refreshed:
    """Compute A^-exponent where eigenvalues are large enough, and 0 elsewhere.

    Kept are those above max(`rank_atol`, `rank_rtol` * lambda_max); `rank_rtol` defaults to the
    true size times the machine epsilon. The optimizer's eps is not used: there is no ridge.
    """
    del previous, eps, relative_eps
    real = real_rows(a, size)
    q, lam = eigh(a, real)
    largest = lax.stop_gradient(ends(lam, size)[1])
    rtol = size * jnp.finfo(a.dtype).eps if rank_rtol is None else rank_rtol
    kept = real & (lam > jnp.maximum(rank_atol, rtol * largest))
    root = spectral_root(exponent, a, jnp.zeros((), a.dtype), q, lam, kept, real)
    return Refreshed(root, probe_residual(a, q, lam, size), ratio(lam, kept))
