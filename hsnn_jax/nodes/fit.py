"""Fit the nodes of an index to frozen user and item vectors."""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from hsnn_jax.distance import nearest
from hsnn_jax.lists.checks import as_integers, as_vectors
from hsnn_jax.nodes.config import LTIConfig
from hsnn_jax.nodes.dead_nodes import replace_dead
from hsnn_jax.nodes.lti import (
    alpha_schedule,
    empty_history,
    init_params,
    levels_of,
    lti_loss,
    push_history,
)
from hsnn_jax.nodes.telemetry import Monitor


class FitResult(NamedTuple):
    """What `fit_index` returns."""

    params: dict  # {"nodes": float32 [K, d]}, or a tuple of such
    metrics: list[dict[str, float]]  # one record each `log_every` steps


class _State(NamedTuple):
    params: dict
    opt_state: Any
    history: Any  # float32 [balance_batches - 1, K] a level
    idle: tuple  # int32 [K] a level: steps since the node was the nearest of a sampled item
    step: jax.Array  # int32 []


def fit_index(
    user_vectors: ArrayLike,
    item_vectors: ArrayLike,
    *,
    positives: ArrayLike,
    tx: optax.GradientTransformation,
    config: LTIConfig,
    key: jax.Array,
    batch_size: int = 512,
    log_every: int = 100,
    telemetry_every: int | None = None,
    params: dict | None = None,
) -> FitResult:
    """Train the nodes for `config.total_steps` steps on uniformly drawn pairs.

    Args:
      user_vectors: float32 [N, d], one a pair.
      item_vectors: float32 [n, d].
      positives: int [N], the item of each pair.
      tx: any optax transform over {"nodes": [K, d]} (a tuple of such for residual levels).
      config: see `LTIConfig`.
      key: PRNG key of the start, the batches and the negatives.
      batch_size: pairs a step.
      log_every: steps between records.
      telemetry_every: steps between measurements of all items, see `telemetry.Monitor`, that
        are added to the record of their step; `log_every` by default, 0 for never.
      params: start of the nodes; by default from `init_params`.

    Returns:
      `FitResult`.

    Warns:
      CollapseWarning: once, when telemetry finds that the index has collapsed.

    Raises:
      ValueError: shapes disagree, or a positive is not a row of `item_vectors`.
      FloatingPointError: training diverged: a loss that is recorded or a node is NaN or infinite.
    """
    user_vectors, item_vectors = check_pairs(user_vectors, item_vectors, positives=positives)
    config = config.for_items(item_vectors.shape[0])
    init_key, draw_key = jax.random.split(key)
    if params is None:
        params = init_params(init_key, jnp.asarray(item_vectors), config=config)
    # The step donates its state; the caller keeps its own params.
    nodes: dict = jax.tree.map(jnp.copy, params)
    idle = tuple(jnp.zeros(size, jnp.int32) for size in config.level_sizes)
    state = _State(nodes, tx.init(nodes), empty_history(config), idle, jnp.zeros((), jnp.int32))
    data = (jnp.asarray(user_vectors), jnp.asarray(item_vectors), jnp.asarray(positives))
    step = functools.partial(_step, tx=tx, config=config, batch_size=batch_size)
    step = jax.jit(step, donate_argnums=0)
    telemetry_every = log_every if telemetry_every is None else telemetry_every
    monitor, records = Monitor(item_vectors, distance=config.distance), []
    for i in range(config.total_steps):
        # Where the optimizer's state is sharded, a step has collectives; XLA:CPU deadlocks when
        # many steps of a mesh are queued (rendezvous of two of them wait for each other's threads).
        state, metrics = jax.block_until_ready(step(state, data, draw_key))
        if (i + 1) % log_every == 0:
            del metrics["mean_assignment"]
            records.append({"step": i + 1} | {name: float(v) for name, v in metrics.items()})
            check_finite("loss", metrics["loss"], step=i + 1)
        if telemetry_every and (i + 1) % telemetry_every == 0:
            if (i + 1) % log_every:
                records.append({"step": i + 1})
            records[-1] |= monitor(state.params["nodes"], alpha_schedule(i + 1, config))
    check_finite("nodes", state.params, step=config.total_steps)
    return FitResult(state.params, records)


def check_finite(name: str, tree: Any, *, step: int) -> None:
    """Refuse what a training that diverged has made.

    Args:
      name: what `tree` holds.
      tree: arrays, or numbers.
      step: how many were taken.

    Raises:
      FloatingPointError: there is NaN or infinity in it.
    """
    if not all(np.isfinite(leaf).all() for leaf in jax.device_get(jax.tree.leaves(tree))):
        raise FloatingPointError(
            f"{name}: expected finite numbers, found NaN or infinity after step {step}; "
            "lower the learning rate"
        )


def _step(state, data, key, *, tx, config, batch_size):
    step_key = jax.random.fold_in(key, state.step)
    batch_key, loss_key = jax.random.split(step_key)
    users, items, positives = data
    batch = draw_batch(batch_key, users, items=items, positives=positives, batch_size=batch_size)
    loss = functools.partial(
        lti_loss, key=loss_key, step=state.step, config=config, history=state.history
    )
    (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params, batch)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    history = push_history(state.history, metrics["mean_assignment"])
    params, idle = cast(dict, optax.apply_updates(state.params, updates)), state.idle
    metrics = {"loss": value} | metrics
    if config.dead_after:
        # Popular items alone would let the nodes of all others die.
        dead_key, sample_key = jax.random.split(jax.random.fold_in(step_key, 2))
        rows = jax.random.randint(sample_key, (batch_size,), 0, data[1].shape[0])
        nodes, idle, replaced = _replace_dead(
            params["nodes"], idle, data[1][rows], dead_key, config
        )
        params, metrics = params | {"nodes": nodes}, metrics | {"replaced": replaced}
    return _State(params, opt_state, history, idle, state.step + 1), metrics


def draw_batch(
    key: jax.Array, users: Any, *, items: Any, positives: jax.Array, batch_size: int
) -> dict:
    """Draw pairs uniformly, as a batch of `lti_loss` with the catalogue as its negatives."""
    pairs = jax.random.randint(key, (batch_size,), 0, positives.shape[0])
    ids = positives[pairs]
    batch = {"users": users[pairs], "positives": items[ids]}
    return batch | {"positive_ids": ids, "catalogue": items}


def _replace_dead(nodes, idle, vectors, key, config):
    """Replace the dead nodes of every level, by what the coarser levels leave of the vectors."""
    levels, counters, total = [], [], 0
    for number, (level, counter) in enumerate(zip(levels_of(nodes), idle)):
        level, counter, replaced = replace_dead(
            level,
            counter,
            vectors=vectors,
            key=jax.random.fold_in(key, number),
            dead_after=config.dead_after,
            distance=config.distance,
        )
        vectors = vectors - level[nearest(vectors, level, distance=config.distance)[0]]
        levels.append(level)
        counters.append(counter)
        total += jnp.sum(replaced)
    return tuple(levels) if isinstance(nodes, tuple) else levels[0], tuple(counters), total


def check_pairs(
    user_vectors: ArrayLike, item_vectors: ArrayLike, *, positives: ArrayLike
) -> tuple[np.ndarray | jax.Array, np.ndarray | jax.Array]:
    """Return the vectors as floats; raise a ValueError unless these are pairs of them."""
    item_vectors = as_vectors("item_vectors", item_vectors)
    user_vectors = as_vectors("user_vectors", user_vectors, width=item_vectors.shape[1])
    positives, users = as_integers("positives", positives), user_vectors.shape[0]
    if positives.shape != (users,):
        raise ValueError(
            f"positives: expected one item per user vector, shape [{users}], found "
            f"{list(positives.shape)}"
        )
    items = item_vectors.shape[0]
    if not 0 <= positives.min() <= positives.max() < items:
        raise ValueError(
            f"positives: expected rows of item_vectors, 0 to {items - 1}, found values from "
            f"{positives.min()} to {positives.max()}"
        )
    return user_vectors, item_vectors
