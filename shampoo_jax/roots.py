"""Inverse roots and eigenbases of one padded factor matrix.

Every function here has the form

    refresh(A, size, previous, *, exponent, eps, relative_eps) -> Refreshed

    A         [d, d]   symmetric positive semi-definite in its leading `size` rows and columns,
                       zero elsewhere; already bias-corrected
    size      int32    true size of the block along this dim (padding never changes a result)
    previous  [d, d]   what the last refresh returned, the identity at first
    exponent  float    inverse exponent e of the dim (static)
    eps       scalar   ridge; a multiple of the largest eigenvalue if `relative_eps`

and returns A^-e (roots) or the eigenvectors of A as columns (bases), with a cheap residual that
the caller holds against a threshold. Functions work on one matrix: the caller loops over blocks
on CPU, where batched LAPACK calls can deadlock the XLA thread pool, and maps elsewhere.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

_HIGHEST = lax.Precision.HIGHEST


class Refreshed(NamedTuple):
    """A refreshed root or basis.

    Attributes:
      value: `[d, d]`, zero rows and columns (roots) or unit ones (bases) in the padding.
      residual: scalar, relative; 0 is perfect. Not finite when the computation failed.
      condition: scalar, condition number of what was inverted (the ridge included).
    """

    value: jax.Array
    residual: jax.Array
    condition: jax.Array


def _real(a: jax.Array, size: jax.Array) -> jax.Array:
    """Mask of the rows that are not padding."""
    return jnp.arange(a.shape[-1]) < size


def _fill_diagonal(a: jax.Array, real: jax.Array, value: jax.Array) -> jax.Array:
    """Put `value` on the padded part of the diagonal."""
    return a + jnp.diag(jnp.where(real, jnp.zeros((), a.dtype), value))


def _eigh(a: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Decompose A; padded eigenvalues come last and their vectors are unit vectors.

    The padded diagonal is set above the spectrum (trace >= lambda_max). The matrix stays
    block-diagonal, so the padding cannot mix with eigenvectors of small eigenvalues.
    """
    above = 2 * jnp.trace(a) + jnp.finfo(a.dtype).tiny
    q, lam = lax.linalg.eigh(_fill_diagonal(a, real, above), symmetrize_input=False)
    return q, lam


def _ratio(lam: jax.Array, real: jax.Array) -> jax.Array:
    """Largest over smallest eigenvalue, padding left out."""
    return jnp.where(real, lam, -jnp.inf).max() / jnp.where(real, lam, jnp.inf).min()


def _largest_eigenvalue(a: jax.Array, iterations: int = 8) -> jax.Array:
    """Estimate lambda_max of a positive semi-definite matrix by power iteration: O(d^2)."""
    v = jnp.ones(a.shape[-1:], a.dtype)
    for _ in range(iterations):
        v = a @ v
        v = v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(a.dtype).tiny)
    return jnp.linalg.norm(a @ v)


def _probe_residual(a, q, lam, real) -> jax.Array:
    """|A Q z - Q diag(lam) z| / (|A| |z|) for one fixed z: O(d^2), catches a failed eigh."""
    z = jnp.where(real, 1 - 2.0 * (jnp.arange(a.shape[-1]) % 2), 0).astype(a.dtype)
    error = jnp.linalg.norm(a @ (q @ z) - q @ (lam * z))
    scale = jnp.abs(jnp.where(real, lam, 0)).max() * jnp.linalg.norm(z)
    return error / jnp.maximum(scale, jnp.finfo(a.dtype).tiny)


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
    (eps * lambda_max if `relative_eps`): the smallest eigenvalue is never below eps.
    """
    del previous
    real = _real(a, size)
    q, lam = _eigh(a, real)
    lowest = jnp.where(real, lam, jnp.inf).min()
    ridge = eps * jnp.where(real, lam, 0).max() if relative_eps else eps
    shifted = lam - jnp.minimum(lowest, 0) + ridge
    powers = jnp.where(real, jnp.where(real, shifted, 1) ** -exponent, 0).astype(a.dtype)
    root = jnp.matmul(q * powers[None, :], q.T, precision=_HIGHEST)
    return Refreshed(root, _probe_residual(a, q, lam, real), _ratio(shifted, real))


def _matrix_power(x: jax.Array, n: int) -> jax.Array:
    """x^n by repeated squaring."""
    if n == 1:
        return x
    half = _matrix_power(x, n // 2)
    square = jnp.matmul(half, half, precision=_HIGHEST)
    return square if n % 2 == 0 else jnp.matmul(square, x, precision=_HIGHEST)


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
    `max_iterations`. A relative eps is taken of |A|_F (>= lambda_max).

    Raises:
      ValueError: 1 / exponent is not an integer.
    """
    del previous
    r = round(1 / exponent)
    if abs(r * exponent - 1) > 1e-6:
        raise ValueError(f"exponent: expected 1 / integer for newton_root, found {exponent}")
    real = _real(a, size)
    ridge = eps * jnp.linalg.norm(a) if relative_eps else eps
    shifted = a + jnp.diag(jnp.where(real, ridge, 0).astype(a.dtype))
    z = (r + 1) / (2 * jnp.linalg.norm(shifted))
    eye = jnp.eye(a.shape[-1], dtype=a.dtype)
    # 1 / z on the padded diagonal makes the padding of M the identity from the start.
    m = z * _fill_diagonal(shifted, real, 1 / z)
    x = jnp.diag(jnp.where(real, z ** (1 / r), 0).astype(a.dtype))

    def error(m):
        return jnp.abs(m - eye).max()

    def unfinished(carry):
        _, m, i = carry
        return (error(m) > tolerance) & (i < max_iterations)

    def iterate(carry):
        x, m, i = carry
        t = (1 + 1 / r) * eye - m / r
        x = jnp.matmul(x, t, precision=_HIGHEST)
        return x, jnp.matmul(_matrix_power(t, r), m, precision=_HIGHEST), i + 1

    x, m, _ = lax.while_loop(unfinished, iterate, (x, m, 0))
    condition = _largest_eigenvalue(shifted) * _largest_eigenvalue(x) ** r
    return Refreshed(x, error(m), condition)


def eigh_basis(
    a: jax.Array,
    size: jax.Array,
    previous: jax.Array,
    *,
    exponent: float,
    eps: ArrayLike,
    relative_eps: bool,
) -> Refreshed:
    """Compute the eigenvectors of A, columns in ascending order of eigenvalue, padding last."""
    del previous, exponent, eps, relative_eps
    real = _real(a, size)
    q, lam = _eigh(a, real)
    return Refreshed(q, _probe_residual(a, q, lam, real), _ratio(lam, real))


def qr_basis(
    a: jax.Array,
    size: jax.Array,
    previous: jax.Array,
    *,
    exponent: float,
    eps: ArrayLike,
    relative_eps: bool,
    max_iterations: int = 1,
) -> Refreshed:
    """Refine the previous eigenbasis by QR iterations on Q^T A Q (SOAP).

    The residual is the loss of orthogonality seen by one fixed vector: the iteration itself
    cannot diverge, only receive numbers that are not finite.
    """
    del exponent
    real = _real(a, size)
    ridge = eps * jnp.trace(a) if relative_eps else eps
    shifted = a + jnp.diag(jnp.where(real, ridge, 0).astype(a.dtype))
    shifted = _fill_diagonal(shifted, real, 2 * jnp.trace(shifted))
    q = previous
    e = jnp.matmul(q.T, jnp.matmul(shifted, q, precision=_HIGHEST), precision=_HIGHEST)
    for _ in range(max_iterations):
        u, r = jnp.linalg.qr(e)
        e = jnp.matmul(r, u, precision=_HIGHEST)
        q = jnp.matmul(q, u, precision=_HIGHEST)
    lam = jnp.sort(jnp.diagonal(e))
    q = q[:, jnp.argsort(jnp.diagonal(e), stable=True)]
    z = jnp.ones((a.shape[-1],), a.dtype)
    lost = jnp.abs(jnp.linalg.norm(q @ z) / jnp.linalg.norm(z) - 1)
    return Refreshed(q, lost, _ratio(lam, real))
