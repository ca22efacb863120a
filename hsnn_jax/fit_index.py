"""Fit the nodes of an index to frozen user and item vectors."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hsnn_jax.lti import LTIConfig, empty_history, init_params, lti_loss, push_history


class FitResult(NamedTuple):
    """What `fit_index` returns."""

    params: dict  # {"nodes": float32 [K, d]}
    metrics: list[dict[str, float]]  # one record each `log_every` steps


class _State(NamedTuple):
    params: dict
    opt_state: Any
    history: jax.Array  # float32 [balance_batches - 1, K]
    step: jax.Array  # int32 []


def fit_index(
    user_vectors,
    item_vectors,
    positives,
    tx: optax.GradientTransformation,
    *,
    config: LTIConfig,
    key,
    batch_size: int = 512,
    log_every: int = 100,
    params: dict | None = None,
) -> FitResult:
    """Train the nodes for `config.total_steps` steps on uniformly drawn pairs.

    Args:
      user_vectors: float32 [N, d], one a pair.
      item_vectors: float32 [n, d].
      positives: int [N], the item of each pair.
      tx: any optax transform over {"nodes": [K, d]}.
      config: see `LTIConfig`.
      key: PRNG key of the start, the batches and the negatives.
      batch_size: pairs a step.
      log_every: steps between records.
      params: start of the nodes; k-means on `item_vectors` by default.

    Returns:
      `FitResult`.

    Raises:
      ValueError: shapes disagree, or a positive is not a row of `item_vectors`.
    """
    _check_pairs(user_vectors, item_vectors, positives)
    init_key, draw_key = jax.random.split(key)
    if params is None:
        params = init_params(init_key, jnp.asarray(item_vectors), config)
    # The step donates its state; the caller keeps its own params.
    params = jax.tree.map(jnp.copy, params)
    state = _State(params, tx.init(params), empty_history(config), jnp.zeros((), jnp.int32))
    data = (jnp.asarray(user_vectors), jnp.asarray(item_vectors), jnp.asarray(positives))
    step = functools.partial(_step, tx=tx, config=config, batch_size=batch_size)
    step = jax.jit(step, donate_argnums=0)
    records = []
    for i in range(config.total_steps):
        state, metrics = step(state, data, draw_key)
        if (i + 1) % log_every == 0:
            del metrics["mean_assignment"]
            records.append({"step": i + 1} | {name: float(v) for name, v in metrics.items()})
    return FitResult(state.params, records)


def _step(state, data, key, *, tx, config, batch_size):
    users, items, positives = data
    batch_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))
    pairs = jax.random.randint(batch_key, (batch_size,), 0, positives.shape[0])
    ids = positives[pairs]
    batch = {"users": users[pairs], "positives": items[ids]}
    batch |= {"positive_ids": ids, "catalogue": items}
    loss = functools.partial(lti_loss, step=state.step, config=config, history=state.history)
    (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params, batch, loss_key)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    history = push_history(state.history, metrics["mean_assignment"])
    params = optax.apply_updates(state.params, updates)
    return _State(params, opt_state, history, state.step + 1), {"loss": value} | metrics


def _check_pairs(user_vectors, item_vectors, positives):
    if user_vectors.ndim != 2 or user_vectors.shape[1:] != item_vectors.shape[1:]:
        raise ValueError(
            "user_vectors [N, d] and item_vectors [n, d] must share their width, "
            f"got shapes {user_vectors.shape} and {item_vectors.shape}"
        )
    positives = np.asarray(positives)
    if positives.shape != user_vectors.shape[:1]:
        raise ValueError(
            f"positives must hold one item a user vector, shape {user_vectors.shape[:1]}, "
            f"got shape {positives.shape}"
        )
    if positives.size and not 0 <= positives.min() <= positives.max() < item_vectors.shape[0]:
        raise ValueError(
            f"positives must be rows of item_vectors, in [0, {item_vectors.shape[0]}), "
            f"got values in [{positives.min()}, {positives.max()}]"
        )
