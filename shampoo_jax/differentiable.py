"""Roots and norms whose derivative at zero is zero, for programs that differentiate a step.

Padding is zero, so is what has no gradient; there the derivative of a root is infinite, and times
zero it would be NaN. The values are those of jnp, by the same operations.
"""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def power(x: jax.Array, exponent: float) -> jax.Array:
    """x^exponent of x >= 0, elementwise."""
    return jnp.sqrt(x) if exponent == 0.5 else x**exponent


@power.defjvp
def _power_jvp(exponent, primals, tangents):
    (x,), (change,) = primals, tangents
    positive = x > 0
    slope = exponent * jnp.where(positive, x, 1) ** (exponent - 1)
    return power(x, exponent), jnp.where(positive, slope, 0) * change


def norms(x: jax.Array) -> jax.Array:
    """Norms `[n]` of the rows of `[n, *dims]`."""
    return power(jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim))), 0.5)
