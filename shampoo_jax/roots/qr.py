"""Eigenbases by QR iterations from the previous ones (SOAP)."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from shampoo_jax.roots.decompositions import qr, rotate
from shampoo_jax.roots.diagonality import nearly_diagonal
from shampoo_jax.roots.padding import add_ridge, fill_diagonal, product, real_rows
from shampoo_jax.roots.refreshed import Refreshed, ratio


def qr_basis(
    a: jax.Array,
    size: jax.Array,
    previous: jax.Array,
    *,
    exponent: float,
    eps: ArrayLike,
    relative_eps: bool,
    max_iterations: int = 1,
    tolerance: float = 0.0,
) -> Refreshed:
    """Refine the previous eigenbasis by QR iterations on Q^T A Q (SOAP).

    With `tolerance` > 0 they end as soon as the part of Q^T A Q off the diagonal has at most
    `tolerance` times the norm of the whole, perhaps before the first.

    The residual is the loss of orthogonality seen by one fixed vector: the iteration itself
    cannot diverge, only receive numbers that are not finite.
    """
    del exponent
    real = real_rows(a, size)
    ridge = eps * jnp.trace(a) if relative_eps else eps
    shifted = add_ridge(a, real, jnp.asarray(ridge))
    above = 2 * jnp.trace(shifted)

    def step(e, q):
        u, r = qr(fill_diagonal(e, real, above))
        return jnp.where(inside, product(r, u), 0), product(q, u)

    q = previous
    inside = real[:, None] & real[None, :]
    e = rotate(shifted, q)
    for _ in range(max_iterations):
        if tolerance:
            near = nearly_diagonal(e, tolerance)
            e, q = lax.cond(near, lambda e, q: (e, q), step, e, q)
        else:
            e, q = step(e, q)
    lam = jnp.diagonal(fill_diagonal(e, real, above))
    order = jnp.argsort(lam, stable=True)
    q = q[:, order]
    z = jnp.ones((a.shape[-1],), a.dtype)
    lost = jnp.abs(jnp.linalg.norm(q @ z) / jnp.linalg.norm(z) - 1)
    return Refreshed(q, lost, ratio(lam[order], real))
