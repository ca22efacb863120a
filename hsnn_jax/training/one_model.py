"""One model trained on pairs: a sampled softmax of what users liked, or the log loss of labels."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from hsnn_jax.chunks import num_rows
from hsnn_jax.cost_curves import recall
from hsnn_jax.descent.search import brute_force
from hsnn_jax.monn.config import MoNNConfig
from hsnn_jax.monn.losses import multi_task_loss, sampled_softmax
from hsnn_jax.monn.model import Encoders, Model, encoders_of
from hsnn_jax.monn.network import init_monn, logits
from hsnn_jax.monn.scorers import score_all
from hsnn_jax.training.loop import Record, Training, train
from hsnn_jax.training.optimizers import Optimizer
from hsnn_jax.training.pairs import Pairs, split, take


def fit_one(
    model: Model,
    params: Any,
    *,
    pairs: Pairs,
    tx: Optimizer,
    training: Training,
    seed: int,
    task: str | None = None,
) -> tuple[Any, list[Record]]:
    """Train a model, a MoNN from parameters that are drawn where none are given.

    Without labels by a sampled softmax of the task's logits: a user's item against items drawn
    uniformly, so that the best items come first. With labels by the log loss of all tasks, each a
    mean over its labels: `calibration` of the probabilities on such pairs is near 1 then.

    Args:
      model: a MoNN, or towers, whose scores are the logits of their one task.
      params: of the model, from `init_monn`; None draws them.
      pairs: see `Pairs`.
      tx, training: see `loop.train`.
      seed: of parameters, the split, batches and negatives.
      task: of the model's, whose items are to be found; the first by default.

    Returns:
      (parameters, records): the best on the held-out pairs.

    Raises:
      ValueError: towers have no parameters, no held-out pair is liked, or see `pairs.split`,
        `optimizers.made`.
      FloatingPointError: training diverged.
    """
    rows, held = split(pairs.positives.size, validation=training.validation, seed=seed)
    init_key, key = jax.random.split(jax.random.key(seed))
    encoders, column = encoders_of(model, task), 0
    if isinstance(model, MoNNConfig):
        params = init_monn(init_key, model) if params is None else params
        column = model.tasks.index(task) if task else 0
    elif params is None:
        raise ValueError("params: expected those that your towers start from, found none")
    softmax = SampledSoftmax(encoders, training.negatives)
    loss = softmax if pairs.labels is None else LogLoss(model)
    liked = held[liked_of(pairs, held, column=column)]

    def find(params: Any, data: Pairs, *, users: Any, k: int) -> Any:
        users, items = encoders.users(params, users), encoders.items(params, data.items)
        return brute_force(encoders.scorer, params, items=items, users=users, k=k).ids

    validate = validator(loss, find, pairs=pairs, held=held, liked=liked, training=training)
    options = {"data": pairs, "rows": rows, "tx": tx, "training": training}
    return train(loss, params, validate=validate, key=key, **options)


def liked_of(pairs: Pairs, held: np.ndarray, *, column: int) -> np.ndarray:
    """Tell which of the held-out pairs are liked, bool [m].

    Raises:
      ValueError: none is.
    """
    if pairs.labels is None:
        return np.ones(held.size, bool)
    liked = np.asarray(pairs.labels)[held, column] > 0.5
    if not liked.any():
        raise ValueError(f"validation: expected pairs with label 1, found none of {held.size}")
    return liked


def validator(
    loss: Callable,
    find: Callable[..., Any],
    *,
    pairs: Pairs,
    held: np.ndarray,
    liked: np.ndarray,
    training: Training,
) -> Callable[[Any, Any], Record]:
    """Return what measures parameters on held-out pairs.

    Args:
      loss: see `loop.Loss`.
      find: find(params, data, users=..., k=...) is int [B, k], the exact best of all items.
      pairs: all.
      held: int [m], the held-out rows.
      liked: int [l], those of them whose items are to be found.
      training: its `k`, `batch_size` and `steps`.

    Returns:
      validate(params, data): {"recall@k": share of the liked items that are among the k best of all
      items, "validation_loss": mean over the held-out pairs, of the last step's kind}.
    """
    users = take(pairs.users, jnp.asarray(liked))
    wanted = np.asarray(pairs.positives)[liked, None]
    k = min(training.k, num_rows(pairs.items))
    # Whole batches: some pairs come twice, and one program serves all.
    size = -(-held.size // training.batch_size) * training.batch_size
    batches = jnp.asarray(np.resize(held, size).reshape(-1, training.batch_size))
    # The same negatives at every validation, and no ramp of a loss that training has.
    given = {"key": jax.random.key(0), "step": training.steps, "loss": loss}

    def validate(params: Any, data: Any) -> Record:
        losses = [float(_loss_of(params, data, rows, **given)) for rows in batches]
        share = recall(np.asarray(find(params, data, users=users, k=k)), wanted)
        return {f"recall@{training.k}": share, "validation_loss": float(np.mean(losses))}

    return validate


@functools.partial(jax.jit, static_argnames="loss")
def _loss_of(params, data, rows, *, key, step, loss):
    return loss(params, data, rows=rows, key=key, step=step)


@dataclasses.dataclass(frozen=True)
class SampledSoftmax:
    """The loss of pairs that are all liked, against items that a batch shares; see `loop.Loss`."""

    encoders: Encoders
    negatives: int

    def __call__(
        self, params: Any, data: Pairs, *, rows: jax.Array, key: jax.Array, step: jax.Array
    ) -> jax.Array:
        """Return the mean over the pairs `rows`, float []."""
        del step
        encoders, scorer = self.encoders, self.encoders.scorer
        own_ids, catalogue = data.positives[rows], num_rows(data.items)
        other_ids = jax.random.randint(key, (self.negatives,), 0, catalogue)
        users = encoders.users(params, take(data.users, rows))
        own, others = (
            encoders.items(params, take(data.items, ids)) for ids in (own_ids, other_ids)
        )
        positive = scorer(params, users, jax.tree.map(lambda x: x[:, None], own))[:, 0]
        negative = score_all(scorer, params, users=users, items=others)
        kept = own_ids[:, None] != other_ids[None, :]
        return sampled_softmax(positive, negative, kept_BxN=kept)


@dataclasses.dataclass(frozen=True)
class LogLoss:
    """The loss of labelled pairs: cross entropy, a mean over its labels a task; see `loop.Loss`."""

    model: Model

    def __call__(
        self, params: Any, data: Pairs, *, rows: jax.Array, key: jax.Array, step: jax.Array
    ) -> jax.Array:
        """Return the sum over tasks, float []."""
        del key, step
        users, items = take(data.users, rows), take(data.items, data.positives[rows])
        found = self._logits(params, users, items)
        labels = cast(jax.Array, data.labels)[rows]
        weights = np.ones(labels.shape[1])
        return multi_task_loss(found, labels, weights=weights, mask=~jnp.isnan(labels))[0]

    def _logits(self, params, users, items):
        """Return those of pairs, float [b, T]."""
        if isinstance(self.model, MoNNConfig):
            given = {"user_features": users[0], "item_features": items[0]}
            return logits(self.model, params, counts=users[1], attributes=items[1], **given)
        encoders = self.model.encoders
        items = jax.tree.map(lambda x: x[:, None], encoders.items(params, items))
        return encoders.scorer(params, encoders.users(params, users), items)
