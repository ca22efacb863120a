"""The models of all levels, their ensemble and the nodes trained together on pairs.

Source: arXiv 2408.06653v3, joint optimisation of the index and MoNN.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hsnn_jax.chunks import num_rows
from hsnn_jax.descent.search import brute_force_levels
from hsnn_jax.distance import Distance
from hsnn_jax.lists.index import Index
from hsnn_jax.lists.levels import build_levels, representatives_of_items, residual_nodes
from hsnn_jax.monn.config import MoNNConfig
from hsnn_jax.monn.network import item_vectors
from hsnn_jax.nodes.config import LTIConfig
from hsnn_jax.nodes.joint import (
    JointConfig,
    encode_levels,
    init_joint,
    joint_loss,
    request_levels,
)
from hsnn_jax.nodes.lti import levels_of
from hsnn_jax.training.loop import Loss, Record, Training, train
from hsnn_jax.training.one_model import liked_of, validator
from hsnn_jax.training.optimizers import Optimizer
from hsnn_jax.training.pairs import Pairs, split, take


class LevelPairs(NamedTuple):
    """Pairs, and which item stands for the node of each item, as of the last validation."""

    pairs: Pairs
    indexes: tuple[Index, ...]  # the coarsest first
    representatives: tuple  # int32 [n] a level of nodes: rows of items


def fit_levels(
    models: tuple[MoNNConfig, ...],
    params: Any,
    *,
    index: LTIConfig,
    slack: float,
    pairs: Pairs,
    tx: Optimizer,
    training: Training,
    seed: int,
    task: str | None = None,
    loss: Loss | None = None,
    refresh: Callable[[Any, Any], Any] | None = None,
) -> tuple[Any, list[Record]]:
    """Train by `joint_loss`, from parameters that are drawn where none are given.

    Without labels a pair has label 1, and the items that a step draws have label 0, each with one
    of the batch's users. Which item stands for a node is looked up anew at every validation, as
    are the lists. The temperature of the assignment follows `training.steps`.

    Args:
      models: one per level of nodes, the coarsest first, and one of the items.
      params: from `init_joint`; None draws them. Without an "ensemble" each level is trained, and
        ranks, by its own output.
      index: of the nodes; its `total_steps` are those of the training.
      slack: see `build_index`.
      pairs, tx, training, seed, task: see `one_model.fit_one`.
      loss: in place of `JointLoss`, of the same data.
      refresh: in place of `listed`, see `loop.train`; what it returns has the fields of
        `LevelPairs`.

    Returns:
      (parameters, records) as of `fit_one`; recall is that of all levels' ensemble.

    Raises: see `fit_one` and `JointConfig`.
    """
    index = index.for_items(num_rows(pairs.items))
    index = dataclasses.replace(index, total_steps=training.steps)
    config = JointConfig(models=models, index=index)
    rows, held = split(pairs.positives.size, validation=training.validation, seed=seed)
    init_key, key = jax.random.split(jax.random.key(seed))
    if params is None:
        params = init_joint(init_key, config, item_features=pairs.items[0])
    column = models[0].tasks.index(task) if task else 0
    liked = held[liked_of(pairs, held, column=column)]
    refresh = refresh or functools.partial(listed, config=config, slack=slack)

    def find(params: Any, data: LevelPairs, *, users: tuple, k: int) -> Any:
        given = models, params["models"]
        read = {"indexes": data.indexes, "items": pairs.items, "distance": index.distance}
        features = encode_levels(*given, **read)
        levels = request_levels(*given, features=features, users=users, task=task)
        return brute_force_levels(levels, data.indexes, k=k, ensemble=params.get("ensemble")).ids

    loss = loss or JointLoss(config, training.negatives)
    validate = validator(loss, find, pairs=pairs, held=held, liked=liked, training=training)
    options = {"rows": rows, "tx": tx, "training": training, "key": key, "refresh": refresh}
    return train(loss, params, data=LevelPairs(pairs, (), ()), validate=validate, **options)


@dataclasses.dataclass(frozen=True)
class JointLoss:
    """The loss of all levels and the nodes, see `joint_loss`; a `loop.Loss`."""

    config: JointConfig
    negatives: int

    def __call__(
        self, params: Any, data: LevelPairs, *, rows: jax.Array, key: jax.Array, step: jax.Array
    ) -> jax.Array:
        """Return the loss of the pairs `rows`, float []."""
        pairs, own = data.pairs, data.pairs.positives[rows]
        drawn = jax.random.randint(key, (self.negatives,), 0, num_rows(pairs.items))
        if pairs.labels is None:
            users = jnp.concatenate([rows, jnp.resize(rows, drawn.shape)])
            ids, liked = jnp.concatenate([own, drawn]), jnp.arange(users.size) < rows.size
            # A negative that is the user's own item says nothing.
            unlike = jnp.where(ids == pairs.positives[users], jnp.nan, 0.0)
            labels = jnp.where(liked, 1.0, unlike)[:, None]
            labels = jnp.tile(labels, (1, len(self.config.models[0].tasks)))
        else:
            users, ids, labels = rows, own, pairs.labels[rows]
        batch = batch_of(data, users=users, ids=ids, labels=labels, negatives=drawn)
        return joint_loss(params, batch, step=step, config=self.config)[0]


def batch_of(
    data: LevelPairs, *, users: jax.Array, ids: jax.Array, labels: jax.Array, negatives: jax.Array
) -> dict:
    """Return a batch of `joint_loss`.

    Args:
      data: where it is read.
      users: int [B], rows of the pairs.
      ids: int [B], items.
      labels: float [B, T], NaN where there is none.
      negatives: int [N], items that the index loss draws.
    """
    pairs, mask = data.pairs, ~jnp.isnan(labels)
    return {
        "users": take(pairs.users, users),
        "items": take(pairs.items, ids),
        "representatives": tuple(take(pairs.items, of[ids]) for of in data.representatives),
        "labels": jnp.where(mask, labels, 0.0),
        "mask": mask,
        "item_ids": ids,
        "negatives": take(pairs.items[0], negatives),
        "negative_ids": negatives,
    }


def listed(params: Any, data: LevelPairs, *, config: JointConfig, slack: float) -> LevelPairs:
    """List the items by the nodes as they are now.

    Args:
      params: from `init_joint`.
      data: whose pairs stay.
      config: see `JointConfig`.
      slack: see `build_index`.
    """
    items, distance = data.pairs.items, config.index.distance
    vectors = np.asarray(item_vectors(config.models[-1], params["models"][-1], features=items[0]))
    nodes, parents = residual_nodes(levels_of(params["nodes"]))
    given = {"parents": parents, "slack": slack, "distance": distance}
    indexes = build_levels(vectors, nodes, **given)
    return represented(data.pairs, indexes, vectors=vectors, distance=distance)


def represented(
    pairs: Pairs, indexes: tuple[Index, ...], *, vectors: ArrayLike, distance: Distance
) -> LevelPairs:
    """Return the pairs with indexes, and with what stands for the node of each item.

    Args:
      pairs: see `Pairs`.
      indexes: from `build_levels`, without free rows.
      vectors: float [n, d], of the items, in the space of the nodes.
      distance: by which the item nearest to a node represents it.
    """
    found = representatives_of_items(indexes, jnp.asarray(vectors), distance=distance)
    # A node without items has no representative; no pair asks for it.
    return LevelPairs(pairs, tuple(indexes), tuple(jnp.maximum(of, 0) for of in found))
