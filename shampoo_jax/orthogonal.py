"""Nearest semi-orthogonal matrix of stacked matrices `[n, a, b]`: spectral descent, Muon.

For M = U S V^T it is U V^T, all singular values set to 1. Zero rows and columns stay zero.
"""

import jax
import jax.numpy as jnp
from jax import lax

from shampoo_jax.roots.decompositions import mappable

_HIGHEST = lax.Precision.HIGHEST
MUON = (3.4445, -4.775, 2.0315)


def newton_schulz(
    m: jax.Array,
    *,
    coefficients: tuple[float, float, float] = MUON,
    iterations: int = 5,
) -> jax.Array:
    """Bring the singular values of M `[n, a, b]` near 1 by products only.

    From M / max(|M|_F, 1e-8) each iteration is X <- a X + X (b B + c B^2), B = X^T X. With the
    coefficients of Muon they end between 0.7 and 1.2; (1.5, -0.5, 0) converges to 1, slowly.
    """
    a, b, c = coefficients
    tall = m.shape[1] >= m.shape[2]
    x = m if tall else m.mT
    norm = jnp.sqrt(jnp.sum(jnp.square(x), axis=(1, 2), keepdims=True))
    x = x / jnp.maximum(norm, 1e-8)
    for _ in range(iterations):
        square = jnp.matmul(x.mT, x, precision=_HIGHEST)
        mixed = b * square + c * jnp.matmul(square, square, precision=_HIGHEST)
        x = a * x + jnp.matmul(x, mixed, precision=_HIGHEST)
    return x if tall else x.mT


def polar(m: jax.Array, *, nuclear_norm: bool = False) -> jax.Array:
    """Set the singular values of M `[n, a, b]` to 1 by a singular value decomposition.

    Those that vanish up to rounding stay 0.

    Args:
      m: matrices.
      nuclear_norm: multiply by the sum of the singular values: the steepest descent in the
        spectral norm, whose length follows the gradient.
    """

    def one(m):
        u, s, vt = jnp.linalg.svd(m, full_matrices=False)
        kept = s > max(m.shape) * jnp.finfo(m.dtype).eps * s[0]
        size = jnp.sum(s) if nuclear_norm else 1.0
        return size * jnp.matmul(u * kept[None, :].astype(m.dtype), vt, precision=_HIGHEST)

    return jax.vmap(mappable(one))(m)
