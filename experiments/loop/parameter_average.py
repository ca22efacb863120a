"""An exponential average of the parameters, kept in the optimizer's state."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.loop.train_step import Params


class AverageState(NamedTuple):
    """The average so far, laid out as the parameters, and the number of steps in it."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  # int32 scalar
    average: Params


def average_parameters(decay: float) -> optax.GradientTransformation:
    """Average the parameters that updates lead to; the last one of a chain.

    The weight of a new value is (1 - decay) / (1 - decay^t) at step t: the first steps are averaged
    without a trace of the start.
    """

    def init(params: Params) -> AverageState:
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        count = state.count + 1
        weight = (1 - decay) / (1 - decay**count)
        new = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, w: a + weight * (w - a), state.average, new)
        return updates, AverageState(count, average)

    return optax.GradientTransformation(init, update)


def averaged(opt_state: Any) -> Params:
    """Return the average that a chain's state holds."""
    return opt_state[-1].average
