"""Linear towers over given vectors of users and items, trained alone or jointly with the nodes.

u' = unit(u + u A), v' = unit(v + v B), with A and B zero at first. Separate training is a sampled
softmax on <u', v'>; joint training adds the index loss of LTI on the same pairs, whose gradient
reaches the nodes and both towers.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from hsnn_jax.monn.scorers import unit
from hsnn_jax.nodes.lti import (
    LTIConfig,
    empty_history,
    init_params,
    lti_loss,
    push_history,
    supervised_loss,
    with_negatives,
)


class Vectors(NamedTuple):
    """What is given: users float32 [N, d] and item int32 [N] of each pair, items float32 [n, d]."""

    users: np.ndarray
    positives: np.ndarray
    items: np.ndarray


class Adapted(NamedTuple):
    """Trained towers, and the nodes where they were trained jointly."""

    params: dict

    def users(self, vectors: ArrayLike) -> jax.Array:
        """Map user vectors."""
        return _map(self.params["user"], jnp.asarray(vectors))

    def items(self, vectors: ArrayLike) -> jax.Array:
        """Map item vectors."""
        return _map(self.params["item"], jnp.asarray(vectors))


@jax.jit
def _map(matrix, vectors):
    return unit(vectors + vectors @ matrix)


def adapt(
    vectors: Vectors,
    config: LTIConfig,
    *,
    joint: bool,
    rate: float,
    key: jax.Array,
    batch_size: int = 512,
    steps: int | None = None,
    start: Adapted | None = None,
) -> Adapted:
    """Train the towers on uniformly drawn pairs.

    Args:
      vectors: what is given.
      config: of the index loss; its logit scale and negatives also serve the item loss, so that
        separate and joint training differ in the index loss alone.
      joint: whether the index loss is added, and nodes are trained.
      rate: of Adam.
      key: of start and batches.
      batch_size: pairs a step.
      steps: `config.total_steps` by default; the schedules go by that in any case.
      start: parameters to go on from; the temperature then is the final one.
    """
    start_key, draw_key = jax.random.split(key)
    width = vectors.items.shape[1]
    items = jnp.asarray(vectors.items)
    first = config.total_steps if start is not None else 0
    if start is None:
        zero = jnp.zeros((width, width))
        params = {"user": zero, "item": zero}
        if joint:
            params |= init_params(start_key, unit(items), config=config)
    else:
        params = jax.tree.map(jnp.copy, start.params)
    state = (params, optax.adam(rate).init(params), empty_history(config))
    data = tuple(map(jnp.asarray, vectors))
    static = {"rate": rate, "config": config, "joint": joint, "batch_size": batch_size}
    for i in range(config.total_steps if steps is None else steps):
        state = _step(state, data, draw_key, i, first + i, **static)
    return Adapted(state[0])


@functools.partial(jax.jit, static_argnames=("rate", "config", "joint", "batch_size"))
def _step(state, data, key, draw, number, *, rate, config: LTIConfig, joint: bool, batch_size: int):
    """Take a step: `draw` numbers the batches of this call, `number` the steps of the schedules."""
    params, opt_state, history = state
    users, positives, items = data
    batch_key, loss_key = jax.random.split(jax.random.fold_in(key, draw))
    rows = jax.random.randint(batch_key, (batch_size,), 0, positives.shape[0])
    ids = positives[rows]

    def loss(params):
        batch = {
            "users": _map(params["user"], users[rows]),
            "positives": _map(params["item"], items[ids]),
            "positive_ids": ids,
        }
        # The negatives are drawn before they are mapped: not the whole catalogue is.
        drawn = with_negatives(batch | {"catalogue": items}, loss_key, config=config)
        batch["negatives"] = _map(params["item"], drawn["negatives"])
        batch["negative_ids"] = drawn["negative_ids"]
        own = supervised_loss(batch, batch["positives"], shared=batch["negatives"], config=config)
        total = jnp.mean(own)
        if not joint:
            return total, None
        index, metrics = lti_loss(
            params, batch, key=loss_key, step=number, config=config, history=history
        )
        return total + index, metrics["mean_assignment"]

    (_, mean), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = optax.adam(rate).update(gradients, opt_state, params)
    history = push_history(history, mean) if joint else history
    return optax.apply_updates(params, updates), opt_state, history
