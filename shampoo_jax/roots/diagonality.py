"""How far a basis still is from the eigenvectors of a matrix."""

import jax
import jax.numpy as jnp


def nearly_diagonal(rotated: jax.Array, tolerance: float) -> jax.Array:
    """Whether Q^T A Q `[d, d]` has at most `tolerance` times its norm off the diagonal: bool."""
    off = rotated - jnp.diag(jnp.diagonal(rotated))
    return jnp.linalg.norm(off) <= tolerance * jnp.linalg.norm(rotated)
