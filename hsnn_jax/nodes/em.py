"""Expectation-maximisation: nodes trained under a hard assignment that is renewed in rounds."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from hsnn_jax.distance import nearest
from hsnn_jax.nodes.config import LTIConfig
from hsnn_jax.nodes.dead_nodes import replace_dead
from hsnn_jax.nodes.fit import FitResult, check_finite, check_pairs, draw_batch
from hsnn_jax.nodes.lti import init_params, supervised_loss, warmup, with_negatives
from hsnn_jax.nodes.telemetry import Monitor


def fit_em(
    user_vectors: ArrayLike,
    item_vectors: ArrayLike,
    *,
    positives: ArrayLike,
    tx: optax.GradientTransformation,
    config: LTIConfig,
    key: jax.Array,
    rounds: int = 10,
    batch_size: int = 512,
) -> FitResult:
    """Alternate between assigning all items (E) and training the nodes on the pairs (M).

    E: every item to its nearest node; a node without items is first moved onto an item far from
    its own. M: `config.total_steps / rounds` steps on the supervised loss of <u, c_m>, where c_m
    is the node that the item was assigned to, plus reconstruction ||c_m - v||^2, both warmed up.
    Nothing is soft, so that the temperature and the balance of `config` have no part.

    Args:
      user_vectors, item_vectors, positives, tx, key, batch_size: see `fit_index`.
      config: its loss, negatives, reconstruction, warm-up, start and number of steps.
      rounds: of E and M, >= 1.

    Returns:
      `FitResult`, with one record a round.

    Raises:
      ValueError: as `fit_index`; several levels; rounds outside [1, total_steps].
      FloatingPointError: training diverged: a loss or a node is NaN or infinite.

    Source: the alternating baseline of arXiv 2408.06653v3, which gives no details.
    """
    user_vectors, item_vectors = check_pairs(user_vectors, item_vectors, positives=positives)
    config = config.for_items(item_vectors.shape[0])
    if isinstance(config.num_nodes, tuple):
        raise ValueError(f"num_nodes: expected a single level, found {config.num_nodes}")
    if not 1 <= rounds <= config.total_steps:
        raise ValueError(f"rounds: expected 1 to {config.total_steps}, the steps, found {rounds}")
    init_key, draw_key = jax.random.split(key)
    data = (jnp.asarray(user_vectors), jnp.asarray(item_vectors), jnp.asarray(positives))
    params = init_params(init_key, data[1], config=config)
    state = params, tx.init(params)
    bounds = np.linspace(0, config.total_steps, rounds + 1).astype(int)
    maximise = jax.jit(functools.partial(_maximise, tx=tx, config=config, batch_size=batch_size))
    monitor, records = Monitor(item_vectors, distance=config.distance), []
    for number, (first, last) in enumerate(itertools.pairwise(bounds)):
        round_key = jax.random.fold_in(draw_key, number)
        state, loss = maximise(state, data, round_key, first, last)
        check_finite("loss and nodes", (loss, state[0]), step=int(last))
        measured = monitor(state[0]["nodes"], None)
        records.append({"step": int(last), "loss": float(loss)} | measured)
    return FitResult(state[0], records)


def _maximise(state, data, key, first, last, *, tx, config, batch_size):
    params, opt_state = state
    users, items, positives = data
    nodes, node_of = _expect(params["nodes"], items, jax.random.fold_in(key, 0), config)

    def step(i, carry):
        params, opt_state, _ = carry
        batch_key, negative_key = jax.random.split(jax.random.fold_in(key, i + 1))
        batch = draw_batch(
            batch_key, users, items=items, positives=positives, batch_size=batch_size
        )
        batch = with_negatives(batch, negative_key, config=config)
        loss = functools.partial(em_loss, batch=batch, node_of=node_of, step=i, config=config)
        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    carry = {"nodes": nodes}, opt_state, jnp.zeros(())
    params, opt_state, value = jax.lax.fori_loop(first, last, step, carry)
    return (params, opt_state), value


def _expect(nodes, items, key, config):
    """Return (nodes, the nearest of each item), empty nodes moved onto far items."""
    idle = jnp.zeros(nodes.shape[0], jnp.int32)
    nodes, _, _ = replace_dead(
        nodes, idle, vectors=items, key=key, dead_after=1, distance=config.distance
    )
    return nodes, nearest(items, nodes, distance=config.distance)[0]


def em_loss(
    params: Any, batch: dict, *, node_of: jax.Array, step: ArrayLike, config: LTIConfig
) -> jax.Array:
    """Compute the loss of a batch under a given assignment: supervised + reconstruction, warmed up.

    Args:
      params: {"nodes": float [K, d]}.
      batch: see `lti_loss`, with ids of the pairs' items and of the shared negatives.
      node_of: int [n], the node of each item.
      step, config: see `lti_loss`.
    """
    embedded = params["nodes"][node_of[batch["positive_ids"]]]
    shared = params["nodes"][node_of[batch["negative_ids"]]]
    weights = batch.get("weights", jnp.ones(embedded.shape[0]))
    weights = weights / jnp.maximum(jnp.sum(weights), 1e-9)
    supervised = jnp.sum(weights * supervised_loss(batch, embedded, shared=shared, config=config))
    squared_error = jnp.sum((embedded - batch["positives"]) ** 2, axis=1)
    loss = supervised + config.reconstruction_weight * jnp.sum(weights * squared_error)
    return warmup(step, config) * loss
