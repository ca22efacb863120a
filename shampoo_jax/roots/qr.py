"""Eigenbases by QR iterations from the previous ones (SOAP)."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from shampoo_jax.roots.decompositions import qr
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
    first: Literal["largest", "smallest"] = "largest",
) -> Refreshed:
    """Refine the previous eigenbasis Q by QR iterations, Q R = A Q (SOAP, arXiv 2409.11321).

    With `tolerance` > 0 they end as soon as the part of Q^T A Q off the diagonal has at most
    `tolerance` times the norm of the whole, perhaps before the first.

    An iteration makes every column orthogonal to those before it. What it is good for is the
    `largest` eigenvalue `first`: of a column of a small eigenvalue, A magnifies above all what it
    still has of a large one. The PyTorch original takes the order in which it keeps the columns,
    `smallest` first, and one iteration leaves Q farther from the eigenvectors than it was.

    The residual is the loss of orthogonality seen by one fixed vector: the iteration itself
    cannot diverge, only receive numbers that are not finite.

    Raises:
      ValueError: `first` is neither.
    """
    del exponent
    if first not in ("largest", "smallest"):
        raise ValueError(f"first: expected 'largest' or 'smallest', found {first!r}")
    real = real_rows(a, size)
    ridge = eps * jnp.trace(a) if relative_eps else eps
    shifted = add_ridge(a, real, jnp.asarray(ridge))
    # Padding keeps to itself, with an eigenvalue above the spectrum.
    shifted = fill_diagonal(shifted, real, 2 * jnp.trace(shifted))

    def step(q, y):
        q, _ = qr(y)
        return q, product(shifted, q)

    q, y = previous, product(shifted, previous)
    if first == "largest":
        order = jnp.argsort(jnp.where(real, -_eigenvalues(q, y), jnp.inf), stable=True)
        q, y = q[:, order], y[:, order]
    for _ in range(max_iterations):
        if tolerance:
            inside = jnp.where(real[:, None] & real[None, :], product(q.T, y), 0)
            near = nearly_diagonal(inside, tolerance)
            q, y = lax.cond(near, lambda q, y: (q, y), step, q, y)
        else:
            q, y = step(q, y)
    lam = _eigenvalues(q, y)
    order = jnp.argsort(lam, stable=True)
    q = q[:, order]
    z = jnp.ones((a.shape[-1],), a.dtype)
    lost = jnp.abs(jnp.linalg.norm(q @ z) / jnp.linalg.norm(z) - 1)
    return Refreshed(q, lost, ratio(lam[order], real))


def _eigenvalues(q: jax.Array, y: jax.Array) -> jax.Array:
    """Diagonal of Q^T A Q, given Y = A Q."""
    return jnp.sum(q * y, axis=0)
