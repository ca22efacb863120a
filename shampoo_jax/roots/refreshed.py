"""What a solver returns, and the cheap numbers that tell how well it went."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from shampoo_jax.roots.padding import real_rows


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


def ratio(lam: jax.Array, real: jax.Array) -> jax.Array:
    """Largest over smallest eigenvalue, padding left out."""
    return jnp.where(real, lam, -jnp.inf).max() / jnp.where(real, lam, jnp.inf).min()


def ends(lam: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Smallest and largest of ascending eigenvalues `[d]`, of which padding comes last."""
    return lam[0], lam[size - 1]


def largest_eigenvalue(a: jax.Array, iterations: int = 8) -> jax.Array:
    """Estimate lambda_max of a positive semi-definite matrix by power iteration: O(d^2)."""
    v = jnp.ones(a.shape[-1:], a.dtype)
    for _ in range(iterations):
        v = a @ v
        v = v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(a.dtype).tiny)
    return jnp.linalg.norm(a @ v)


def probe_residual(a: jax.Array, q: jax.Array, lam: jax.Array, size: jax.Array) -> jax.Array:
    """|A Q z - Q diag(lam) z| / (|A| |z|) for one fixed z: O(d^2), catches a failed eigh."""
    real = real_rows(a, size)
    z = jnp.where(real, 1 - 2.0 * (jnp.arange(a.shape[-1]) % 2), 0).astype(a.dtype)
    error = jnp.linalg.norm(a @ (q @ z) - q @ (lam * z))
    scale = jnp.maximum(*map(jnp.abs, ends(lam, size))) * jnp.sqrt(jnp.asarray(size, a.dtype))
    return error / jnp.maximum(scale, jnp.finfo(a.dtype).tiny)
