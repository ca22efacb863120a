"""Joint optimisation of the index and the levels' models (JOIM), and their serving.

Source: arXiv 2408.06653v3, joint optimisation of the index and MoNN.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hsnn_jax.descent.descend import Level
from hsnn_jax.distance import Distance
from hsnn_jax.lists.index import Index, take_rows
from hsnn_jax.lists.levels import representative_items
from hsnn_jax.monn.config import MoNNConfig
from hsnn_jax.monn.ensemble import ensemble_logits, init_ensemble, interaction_mse, level_losses
from hsnn_jax.monn.network import (
    MoNNScorer,
    encode_items,
    encode_users,
    init_monn,
    interactions,
    item_vectors,
    logits,
    user_vectors,
)
from hsnn_jax.nodes.config import LTIConfig
from hsnn_jax.nodes.lti import init_params, lti_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointConfig:
    """The levels' models, the nodes, and what their losses weigh. The weights are ours.

    Attributes:
      models: a MoNN a level, the coarsest first, the last one of the items; of the same tasks.
      index: of the nodes, which are learned on the vectors of the last model's item tower.
      level_weights: of the supervised losses; 1 each by default.
      index_weight: of the index loss, see `lti_loss`.
      interaction_weight: of the mean over node levels of the interaction tower's MSE to that of
        the items; 0 for none. With it, all models have interaction towers of one output.
    """

    models: tuple[MoNNConfig, ...]
    index: LTIConfig
    level_weights: tuple[float, ...] | None = None
    index_weight: float = 1.0
    interaction_weight: float = 0.0

    def __post_init__(self):
        levels = len(self.models)
        if levels != self.index.num_levels + 1:
            raise ValueError(
                "models: expected one per level of nodes and one of the items, found "
                f"{levels} with num_nodes={self.index.num_nodes}"
            )
        if self.level_weights is not None and len(self.level_weights) != levels:
            raise ValueError(
                f"level_weights: expected {levels} entries, found {len(self.level_weights)}"
            )
        for name in ("index_weight", "interaction_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected a number >= 0, found {getattr(self, name)}")
        tasks = {model.tasks for model in self.models}
        if len(tasks) > 1:
            raise ValueError(f"models: expected the same tasks, found {sorted(tasks)}")
        towers = {(model.num_interaction, model.width) for model in self.models}
        if self.interaction_weight and (len(towers) > 1 or not self.models[0].num_interaction):
            raise ValueError(
                "interaction_weight: expected models with interaction towers of one output, found "
                f"(num_interaction, width) of {sorted(towers)}"
            )


def init_joint(key: jax.Array, config: JointConfig, *, item_features: Any) -> dict:
    """Draw the models' parameters and start the nodes from the items.

    Args:
      key: PRNG key.
      config: see `JointConfig`.
      item_features: dict of [n, ...], what the last model's item tower reads.

    Returns:
      {"models": a tree of parameters a level, "ensemble": from `init_ensemble`, "nodes": from
      `lti.init_params`}.
    """
    models = tuple(
        init_monn(jax.random.fold_in(key, level), model)
        for level, model in enumerate(config.models)
    )
    vectors = item_vectors(config.models[-1], models[-1], features=item_features)
    nodes = init_params(jax.random.fold_in(key, len(models)), vectors, config=config.index)["nodes"]
    return {"models": models, "ensemble": init_ensemble(len(models)), "nodes": nodes}


def joint_loss(
    params: Any, batch: dict, *, step: ArrayLike, config: JointConfig, history: Any = None
) -> tuple[jax.Array, dict]:
    """Compute the supervised loss of every level and the index loss of a batch of pairs.

    A pair's output at a level of nodes is that model's logit of the user and the representative
    item of the node that the pair's item is below; at the last level, that of the user and the
    item. Level n's logit is the ensemble of the outputs up to it, and its loss the cross entropy
    with the pair's label. The index loss is LTI's, of the last model's user and item towers in
    their two-tower reading; through its soft assignment gradients reach nodes and towers. Without
    a weight it is left out.

    Args:
      params: from `init_joint`; without an "ensemble" a level's logit is its own output.
      batch: dict of
        users: (features, counts), the arguments of `encode_users` but for the model, of B rows;
        items: (features, attributes) of the pairs' items, as of `encode_items`;
        representatives: such a pair a level of nodes, of B rows (`representatives_of_items`);
        labels: [B, T] in [0, 1], or [B] where there is one task;
        mask: optional bool of that shape, False where a label is missing;
        item_ids: optional int [B]; equal items are then no negatives of each other;
        negatives, negative_ids: optional features [N, ...] and int [N] of shared negatives of
          the index loss.
        The index loss takes the first task's labels: for "bce" as they are, for
        "sampled_softmax" as weights, so that only positives count.
      step, history: see `lti_loss`.
      config: see `JointConfig`; static.

    Returns:
      (scalar, metrics): `level_losses` float [N]; `index_loss` and those of `lti_loss`, and
      `interaction_mse`, where they have a weight. For jax.value_and_grad(..., has_aux=True).

    Raises:
      ValueError: representatives or labels do not fit the config.
    """
    models, users = config.models, batch["users"]
    items = (*batch["representatives"], batch["items"])
    if len(items) != len(models):
        raise ValueError(
            f"representatives: expected {len(models) - 1} entries, one per level of nodes, found "
            f"{len(items) - 1}"
        )
    outputs = [
        logits(
            model,
            of_level,
            user_features=users[0],
            item_features=item[0],
            counts=users[1],
            attributes=item[1],
        )
        for model, of_level, item in zip(models, params["models"], items)
    ]
    outputs_BxTxN = jnp.stack(outputs, axis=-1)
    labels = _by_task(batch["labels"], "labels", outputs_BxTxN)
    mask = None if "mask" not in batch else _by_task(batch["mask"], "mask", outputs_BxTxN)
    level_logits = outputs_BxTxN
    if "ensemble" in params:
        level_logits = ensemble_logits(params["ensemble"], outputs_BxTxN)
    loss, per_level = level_losses(level_logits, labels, weights=config.level_weights, mask=mask)
    metrics: dict = {"level_losses": per_level}
    if config.index_weight:
        nodes, own = {"nodes": params["nodes"]}, index_batch(params, batch, config=config)
        # Without a catalogue in the batch nothing is drawn, and no key is needed.
        index_loss, found = lti_loss(
            nodes, own, key=None, step=step, config=config.index, history=history
        )
        loss += config.index_weight * index_loss
        metrics |= found | {"index_loss": index_loss}
    if config.interaction_weight:
        pairs = [
            _interactions(model, of_level, users, item)
            for model, of_level, item in zip(models, params["models"], items)
        ]
        error = sum(interaction_mse(level, pairs[-1]) for level in pairs[:-1]) / (len(pairs) - 1)
        loss += config.interaction_weight * error
        metrics["interaction_mse"] = error
    return loss, jax.lax.stop_gradient(metrics)


def index_batch(params: Any, batch: dict, *, config: JointConfig) -> dict:
    """Return the vectors of a batch of pairs, as the losses of nodes read them.

    Args:
      params, batch, config: see `joint_loss`.

    Returns:
      A batch of `lti_loss`: users and items in the two-tower reading of the last model, the shared
      negatives, and the first task's labels, as weights where the loss is a softmax.
    """
    model, of_model = config.models[-1], params["models"][-1]
    labels = _first_task(batch["labels"])
    mask = _first_task(batch["mask"]) if "mask" in batch else None
    labels = labels if mask is None else jnp.where(mask, labels, 0)
    found = {
        "users": user_vectors(model, of_model, features=batch["users"][0]),
        "positives": item_vectors(model, of_model, features=batch["items"][0]),
    }
    if config.index.loss == "bce":
        found["labels"] = labels
        if mask is not None:
            found["weights"] = mask.astype(labels.dtype)
    else:
        found["weights"] = labels
    if "item_ids" in batch:
        found["positive_ids"] = batch["item_ids"]
    if "negatives" in batch:
        found["negatives"] = item_vectors(model, of_model, features=batch["negatives"])
        if "negative_ids" in batch:
            found["negative_ids"] = batch["negative_ids"]
    return found


def encode_levels(
    models: Sequence[MoNNConfig],
    params: Sequence,
    *,
    indexes: Sequence[Index],
    items: Any,
    distance: Distance = "l2",
) -> tuple:
    """Encode what the levels list: representatives of nodes, and the items. Once an index.

    Args:
      models: a `MoNNConfig` a level, the coarsest first.
      params: of each.
      indexes: from `build_levels`, on `item_vectors` of the last model.
      items: (features, attributes) of all rows, see `encode_items`.
      distance: by which a node's representative is the nearest.

    Returns:
      The features of each level, for `request_levels`.
    """
    vectors = item_vectors(models[-1], params[-1], features=items[0])
    rows = representative_items(indexes, vectors, distance=distance)
    read = [*(take_rows(items, of_level) for of_level in rows), items]
    return tuple(
        encode_items(model, of_level, features=given[0], attributes=given[1])
        for model, of_level, given in zip(models, params, read)
    )


def request_levels(
    models: Sequence[MoNNConfig],
    params: Sequence,
    *,
    features: Sequence,
    users: Any,
    task: str | None = None,
) -> tuple:
    """Encode the users of a request for every level: the `levels` of `search_levels`.

    Args:
      models, params: see `encode_levels`.
      features: from `encode_levels`.
      users: (features, counts), see `encode_users`.
      task: see `MoNNScorer`.
    """
    given = {"features": users[0], "counts": users[1]}
    return tuple(
        Level(MoNNScorer(model, task), of_level, encode_users(model, of_level, **given), read)
        for model, of_level, read in zip(models, params, features)
    )


def _interactions(model, params, users, items):
    """Return the interaction tower's vectors of B pairs, [B, n, d]."""
    encoded = encode_items(model, params, features=items[0], attributes=items[1])
    encoded = jax.tree.map(lambda x: x[:, None], encoded)
    users = encode_users(model, params, features=users[0], counts=users[1])
    return interactions(model, params, users=users, items=encoded)[:, 0]


def _first_task(given):
    """Return the first column of [B, T], or [B] as it is."""
    return given.reshape(given.shape[0], -1)[:, 0]


def _by_task(given, name, outputs_BxTxN):
    """Return labels or mask as [B, T]."""
    shape = outputs_BxTxN.shape[:2]
    if given.shape not in (shape, shape[:1]) or given.size != shape[0] * shape[1]:
        raise ValueError(
            f"{name}: expected shape {list(shape)}, pairs and tasks, found {list(given.shape)}"
        )
    return given.reshape(shape)
