"""Grafting: the diagonal method whose step size a Shampoo direction takes (paper, section 2.4).

A grafting method is an optax transformation over blocks `[rows, *dims]`. Its `update` receives the
filtered gradient F as updates and, as extra arguments, the raw gradient `gradient`, the step
`count` (int32, from 1) and `active` (bool `[rows]`: False for a block whose gradient is missing or
not finite, which must not change the state; its F and G are then zero or stale). It returns the
direction whose norm, per block, scales Shampoo's. Any elementwise optax transformation serves, see
`elementwise`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.typing import ArrayLike

from shampoo_jax import orthogonal
from shampoo_jax.differentiable import power


class Grafting(optax.GradientTransformationExtraArgs):
    """A transformation that keeps the contract above, `active` included."""


class SecondMomentState(NamedTuple):
    """Second moment of the raw gradient."""

    nu: jax.Array  # [rows, *dims]


def per_row(x: jax.Array, like: jax.Array) -> jax.Array:
    """Reshape `[rows]` so that it broadcasts over `[rows, ...]`."""
    return x.reshape(x.shape + (1,) * (like.ndim - 1))


def as_grafting(method: Any) -> Any:
    """Make a `Grafting` of any optax transformation; leave all else, checked later, as it is."""
    if isinstance(method, optax.GradientTransformation) and not isinstance(method, Grafting):
        return elementwise(method)
    return method


def elementwise(tx: optax.GradientTransformation) -> Grafting:
    """Make a grafting method of an elementwise optax transformation, which sees F only.

    Example: `elementwise(optax.scale_by_adam())`.

    Raises:
      ValueError: its direction points against F, as that of `optax.adam(learning_rate)`.
    """
    tx = optax.with_extra_args_support(tx)
    _check_along(tx)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        active = extra_args.pop("active")
        direction, new = tx.update(updates, state, params, **extra_args)

        def keep(a, b):  # leaves without rows, such as counters, always advance
            rowwise = jnp.ndim(a) > 0 and a.shape[0] == active.shape[0]
            return jnp.where(per_row(active, a), a, b) if rowwise else a

        return direction, jax.tree.map(keep, new, state)

    return Grafting(tx.init, update)


def _check_along(tx: optax.GradientTransformationExtraArgs) -> None:
    """Refuse a descent: what grafts is a direction before -learning_rate, which turns it round.

    Two steps are tried, since a schedule may start at zero.
    """
    with jax.ensure_compile_time_eval():
        block, active = jnp.ones((1, 1)), jnp.ones((1,), bool)
        state = tx.init(block)
        for count in (jnp.int32(1), jnp.int32(2)):
            extra = {"gradient": block, "count": count, "active": active}
            direction: Any
            direction, state = tx.update(block, state, jnp.zeros_like(block), **extra)
            total = jnp.sum(direction)
            if not isinstance(total, Tracer) and total < 0:
                raise ValueError(
                    "grafting: expected a direction along the gradient, as optax.scale_by_adam(), "
                    "found one against it, as optax.adam(learning_rate)"
                )


def _divide(f: jax.Array, denominator: jax.Array) -> jax.Array:
    """f / denominator, and 0 where both vanish (padding when eps is 0)."""
    return jnp.where(denominator > 0, f / jnp.where(denominator > 0, denominator, 1), 0)


def _second_moment(decay, weight, eps, correction=lambda count, dtype: 1) -> Grafting:
    def init(params: Any) -> Any:
        return SecondMomentState(jnp.zeros_like(params))

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        del params
        gradient, count, active = (extra_args[k] for k in ("gradient", "count", "active"))
        # The direction reads the moment that is stored: then XLA updates it in place.
        nu = decay * state.nu + weight * gradient * gradient
        nu = jnp.where(per_row(active, nu), nu, state.nu)
        denominator = power(nu / correction(count, nu.dtype), 0.5) + eps
        return _divide(updates, denominator), SecondMomentState(nu)

    return Grafting(init, update)


def _check_decay(b2: ArrayLike) -> None:
    if isinstance(b2, int | float) and not 0 <= b2 < 1:
        raise ValueError(f"b2: expected a number in [0, 1) for grafting, found {b2!r}")


def adam(b2: ArrayLike = 0.999, eps: ArrayLike = 1e-8, *, weighted: bool = True) -> Grafting:
    """Graft Adam: F / (sqrt(v / (1 - b2^t)) + eps), v an average of G^2 with decay `b2`.

    Without `weighted`, v <- b2 v + G^2, a sum that decays and needs no correction.
    """
    if not weighted:
        return rmsprop(b2, eps, weighted=False)
    _check_decay(b2)
    return _second_moment(b2, 1 - b2, eps, lambda count, dtype: 1 - jnp.asarray(b2, dtype) ** count)


def rmsprop(b2: ArrayLike = 0.99, eps: ArrayLike = 1e-8, *, weighted: bool = True) -> Grafting:
    """Graft RMSProp: F / (sqrt(v) + eps), v an average of G^2 with decay `b2`.

    Without `weighted`, v <- b2 v + G^2, a sum that decays.
    """
    _check_decay(b2)
    return _second_moment(b2, 1 - b2 if weighted else 1.0, eps)


def adagrad(eps: ArrayLike = 1e-10) -> Grafting:
    """Graft AdaGrad: F / (sqrt(v) + eps), v the sum of G^2."""
    return _second_moment(1.0, 1.0, eps)


def sgd() -> Grafting:
    """Graft SGD: the filtered gradient itself."""

    def init(params: Any) -> Any:
        del params
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        del params, extra_args
        return updates, state

    return Grafting(init, update)


def spectral(
    orthogonalize: Callable[[jax.Array], jax.Array] = orthogonal.newton_schulz,
    *,
    norm: Grafting | None = None,
) -> Grafting:
    """Graft spectral descent, as Muon: F with all singular values set to 1.

    A block of order 2 is a matrix; of one of a higher order the longest dim is one side and all
    others together the other; a vector is divided by its norm. Where no dim has a factor,
    `Blocks(exponents=lambda shape: (0,) * len(shape))`, it is the direction itself, per block.
    `optax.contrib.muon` orthogonalizes whole matrices and leaves all else to Adam.

    Args:
      orthogonalize: `shampoo_jax.orthogonal.newton_schulz` or `polar`, their options bound by
        `functools.partial`.
      norm: method whose norm per block the direction takes; None = its own.
    """

    def init(params: Any) -> Any:
        return optax.EmptyState() if norm is None else norm.init(params)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        blocks = updates.reshape(updates.shape[0], -1)
        matrices = updates.reshape(updates.shape[0], *updates.shape[1:2], -1)
        direction = orthogonalize(matrices).reshape(blocks.shape)
        if norm is not None:
            other: Any
            other, state = norm.update(updates, state, params, **extra_args)
            size = jnp.linalg.norm(other.reshape(blocks.shape), axis=1, keepdims=True)
            own = jnp.linalg.norm(direction, axis=1, keepdims=True)
            direction = direction * size / (own + jnp.asarray(1e-16, own.dtype))
        return direction.reshape(updates.shape), state

    return Grafting(init, update)
