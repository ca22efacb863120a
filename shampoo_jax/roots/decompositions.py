"""Eigendecomposition and QR that map, and have derivatives, wherever a solver calls them.

On CPU a batched LAPACK call inside a larger program can park all threads of the XLA pool and sleep
forever (jaxlib 0.10), and `jax.vmap` makes such calls of single ones. There a mapped call
therefore runs matrix by matrix; elsewhere it stays one batched call.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from shampoo_jax.roots.lapack_threads import use_one_lapack_thread
from shampoo_jax.roots.padding import fill_diagonal, product


def mappable(call: Callable[[jax.Array], Any]) -> Callable[[jax.Array], Any]:
    """Make `jax.vmap` of a LAPACK call a loop on CPU.

    The loop has no derivative in reverse mode: callers give their own.
    """
    one_by_one = jax.custom_batching.sequential_vmap(call)

    def mapped(a: jax.Array) -> Any:
        if jax.default_backend() == "cpu":
            use_one_lapack_thread()
        return lax.platform_dependent(a, cpu=one_by_one, default=call)

    return mapped


_eigh = mappable(lambda a: tuple(lax.linalg.eigh(a, symmetrize_input=False)))
_qr = mappable(lambda a: tuple(lax.linalg.qr(a, full_matrices=False)))


def rotate(a: jax.Array, q: jax.Array) -> jax.Array:
    """Q^T A Q."""
    return product(q.T, product(a, q))


@jax.custom_jvp
def eigh(a: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Decompose a padded A into eigenvectors `[d, d]` and ascending eigenvalues `[d]`.

    The padded diagonal is set above the spectrum (trace >= lambda_max). The matrix stays
    block-diagonal, so the padding cannot mix with eigenvectors of small eigenvalues: padded
    eigenvalues come last and their vectors are unit vectors.

    The derivative of eigenvectors is Q F with F_ij = (Q^T dA Q)_ij / (lam_j - lam_i), and
    F_ij = 0 where the two are equal up to rounding: there it does not exist.
    """
    above = 2 * jnp.trace(a) + jnp.finfo(a.dtype).tiny
    return _eigh(fill_diagonal(a, real, above))


@eigh.defjvp
def _eigh_jvp(primals, tangents):
    a, real = primals
    q, lam = eigh(a, real)
    change = rotate((tangents[0] + tangents[0].T) / 2, q)
    gap = lam[None, :] - lam[:, None]
    scale = jnp.abs(jnp.where(real, lam, 0)).max()
    equal = jnp.abs(gap) <= real.sum() * jnp.finfo(a.dtype).eps * scale
    inside = real[None, :] & real[:, None] & ~equal
    turn = jnp.where(inside, change / jnp.where(inside, gap, 1), 0)
    return (q, lam), (product(q, turn), jnp.where(real, jnp.diagonal(change), 0))


@jax.custom_jvp
def qr(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Decompose A `[d, d]` into Q R; columns of Q that are arbitrary have no derivative."""
    return _qr(a)


@qr.defjvp
def _qr_jvp(primals, tangents):
    (a,), (change,) = primals, tangents
    q, r = qr(a)
    # A vanishing R_ii tells of a column that depends on those before it: dividing by an infinite
    # one instead drops what it would contribute.
    size = jnp.abs(jnp.diagonal(r))
    lost = size <= a.shape[-1] * jnp.finfo(a.dtype).eps * size.max()
    divisor = jnp.where(jnp.diag(lost), jnp.finfo(a.dtype).max, r)
    relative = lax.linalg.triangular_solve(divisor, change)  # dA R^-1
    inside = product(q.T, relative)
    lower = jnp.tril(inside, -1)
    turn = lower - lower.T
    return (q, r), (product(q, turn - inside) + relative, product(inside - turn, r))
