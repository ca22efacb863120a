"""How the towers' outputs are compared: by cosine, as unit vectors, or by inner product."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def normalise(x: jax.Array) -> jax.Array:
    """Scale the last axis to length 1, with a finite gradient at zero."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))


def output(x: jax.Array, similarity: str) -> jax.Array:
    """Give a tower's output the length that the similarity asks for."""
    return normalise(x) if similarity == "cosine" else x
