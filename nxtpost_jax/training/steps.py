"""A small training loop on one device: jitted, donated, a function of seed and epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from nxtpost_jax.arrays import Array
from nxtpost_jax.events.content import Content
from nxtpost_jax.towers.model import NxtPost
from nxtpost_jax.training.finite import check_arrays, check_losses
from nxtpost_jax.training.losses import loss
from nxtpost_jax.training.objective import Objective, resolve


@partial(jax.jit, static_argnames=("model", "tx"))
def init(
    model: NxtPost,
    tx: optax.GradientTransformation,
    batch: Mapping[str, Array],
    content: Content,
    key: jax.Array,
) -> tuple[Any, optax.OptState]:
    """Draw parameters and the optimizer's state for them."""
    params = model.init(key, batch, content)["params"]
    return params, tx.init(params)


@partial(
    jax.jit,
    static_argnames=("model", "tx", "objective", "num_negatives"),
    donate_argnames=("params", "state"),
)
def step(
    model: NxtPost,
    tx: optax.GradientTransformation,
    params: Any,
    state: optax.OptState,
    batch: Mapping[str, Array],
    content: Content,
    key: jax.Array,
    candidates: Array,
    *,
    objective: Objective | None = None,
    num_negatives: int | None = None,
    log_popularity: Array | None = None,
) -> tuple[Any, optax.OptState, jax.Array]:
    """Take one optimizer step; `params` and `state` are donated. Arguments as in `losses.loss`.

    Returns:
      params, state and the batch's loss, f32[].
    """

    def value_of(params):
        return loss(
            model,
            params,
            batch=batch,
            content=content,
            key=key,
            objective=objective,
            num_negatives=num_negatives,
            candidates=candidates,
            log_popularity=log_popularity,
        )

    (value, _), grads = jax.value_and_grad(value_of, has_aux=True)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value


def train_epoch(
    model: NxtPost,
    tx: optax.GradientTransformation,
    params: Any,
    state: optax.OptState,
    batches: Iterable[dict],
    content: Content,
    key: jax.Array,
    candidates: Array,
    *,
    objective: Objective | None = None,
    num_negatives: int | None = None,
    log_popularity: Array | None = None,
) -> tuple[Any, optax.OptState, float]:
    """Step through batches; step i draws from `fold_in(key, i)`.

    Returns:
      params, state and the mean loss over the steps, a float.

    Raises:
      FloatingPointError: a loss or, in the end, a parameter is NaN or infinite.
    """
    objective = resolve(objective, num_negatives)
    losses = []
    for i, batch in enumerate(batches):
        step_key = jax.random.fold_in(key, i)
        params, state, value = step(
            model,
            tx,
            params,
            state,
            batch,
            content,
            step_key,
            candidates,
            objective=objective,
            log_popularity=log_popularity,
        )
        losses.append(value)  # left on the device: the host runs ahead and makes batches
    losses = np.array(jax.device_get(losses))
    check_losses(losses)
    check_arrays("params", params)
    return params, state, float(losses.mean())
