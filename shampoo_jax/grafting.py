"""Grafting: the diagonal method whose step size a Shampoo direction takes (paper, section 2.4).

A grafting method is an optax transformation over blocks. Its `update` receives the filtered
gradient F as updates and the raw gradient G as the extra argument `gradient`, with the step
`count` (int32, from 1); it returns the direction whose norm, a block, scales Shampoo's. Any
elementwise optax transformation serves: one that takes no extra arguments sees F only.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class SecondMomentState(NamedTuple):
    """Second moment of the raw gradient."""

    nu: optax.Updates  # as the blocks


def _divide(f: jax.Array, denominator: jax.Array) -> jax.Array:
    """f / denominator, and 0 where both vanish (padding when eps is 0)."""
    return jnp.where(denominator > 0, f / jnp.where(denominator > 0, denominator, 1), 0)


def _second_moment(
    decay, weight, eps, correction=lambda count, dtype: 1
) -> optax.GradientTransformationExtraArgs:
    def init(params):
        return SecondMomentState(jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None, *, gradient, count, **extra_args):
        del params, extra_args
        nu = jax.tree.map(lambda v, g: decay * v + weight * g * g, state.nu, gradient)
        direction = jax.tree.map(
            lambda f, v: _divide(f, jnp.sqrt(v / correction(count, v.dtype)) + eps), updates, nu
        )
        return direction, SecondMomentState(nu)

    return optax.GradientTransformationExtraArgs(init, update)


def adam(b2=0.999, eps=1e-8) -> optax.GradientTransformationExtraArgs:
    """Graft Adam: F / (sqrt(v / (1 - b2^t)) + eps), v an average of G^2 with decay `b2`."""
    return _second_moment(b2, 1 - b2, eps, lambda count, dtype: 1 - jnp.asarray(b2, dtype) ** count)


def rmsprop(b2=0.99, eps=1e-8) -> optax.GradientTransformationExtraArgs:
    """Graft RMSProp: F / (sqrt(v) + eps), v an average of G^2 with decay `b2`."""
    return _second_moment(b2, 1 - b2, eps)


def adagrad(eps=1e-10) -> optax.GradientTransformationExtraArgs:
    """Graft AdaGrad: F / (sqrt(v) + eps), v the sum of G^2."""
    return _second_moment(1.0, 1.0, eps)


def sgd() -> optax.GradientTransformationExtraArgs:
    """Graft SGD: the filtered gradient itself."""

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        return updates, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
