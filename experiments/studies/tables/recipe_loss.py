"""The loss of a recipe: all levels, the nodes by the recipe's learner, and what a teacher says."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.studies.tables.recipes import Recipe
from hsnn_jax.chunks import num_rows
from hsnn_jax.lists.index import Index
from hsnn_jax.lists.levels import nodes_of_items
from hsnn_jax.monn.config import MoNNConfig
from hsnn_jax.monn.ensemble import ensemble_logits
from hsnn_jax.monn.losses import distillation_loss
from hsnn_jax.monn.network import MoNNScorer, encode_items, encode_users
from hsnn_jax.monn.scorers import score_all
from hsnn_jax.nodes.config import LTIConfig
from hsnn_jax.nodes.em import em_loss
from hsnn_jax.nodes.joint import JointConfig, index_batch, joint_loss
from hsnn_jax.nodes.lti import supervised_loss, warmup
from hsnn_jax.training.joint_levels import batch_of
from hsnn_jax.training.pairs import Pairs, take

DISTILLED = 32  # users of a batch that learn from the teacher, all drawn items each
NEXT = "next"


class Known(NamedTuple):
    """What a step reads: `joint_levels.LevelPairs`, and the teacher's parameters."""

    pairs: Pairs
    indexes: tuple[Index, ...]
    representatives: tuple
    teacher: Any


@dataclasses.dataclass(frozen=True)
class RecipeLoss:
    """A `loop.Loss` over `Known`.

    Attributes:
      recipe: whose learner and parts.
      config: of the levels; its first task is the next item.
      teacher: model whose odds the levels learn from, where the recipe distils.
      negatives: items that a step draws.
    """

    recipe: Recipe
    config: JointConfig
    teacher: MoNNConfig
    negatives: int

    def __call__(
        self, params: Any, data: Known, *, rows: jax.Array, key: jax.Array, step: jax.Array
    ) -> jax.Array:
        """Return the loss of the pairs `rows`, float []."""
        drawn = jax.random.randint(key, (self.negatives,), 0, num_rows(data.pairs.items))
        batch = labelled_batch(data, rows, drawn)
        config, index = self.config, self.config.index
        if self.recipe.learner == "LTI":
            loss = joint_loss(params, batch, step=step, config=config)[0]
        else:
            alone = dataclasses.replace(config, index_weight=0.0)
            loss = joint_loss(params, batch, step=step, config=alone)[0]
            own = index_batch(params, batch, config=config)
            if self.recipe.learner == "EM":
                nodes, node_of = params["nodes"][0], nodes_of_items(data.indexes)[-1]
                given = {"node_of": node_of, "step": step, "config": index}
                loss += config.index_weight * em_loss({"nodes": nodes}, own, **given)
            else:
                loss += config.index_weight * _vectors_loss(own, step, index)
        if self.recipe.distillation:
            loss += self._distance(params, data, rows[:DISTILLED], drawn)
        return loss

    def _distance(self, params, data, rows, drawn):
        """Return the cross entropy of every level to the teacher's odds among drawn items."""
        users = take(data.pairs.users, rows)
        ids = (*(of[drawn] for of in data.representatives), drawn)
        levels = zip(self.config.models, params["models"], ids, strict=True)
        outputs = [
            _scores(model, own, users, take(data.pairs.items, of)) for model, own, of in levels
        ]
        logits_UxNxL = jnp.stack(outputs, axis=-1)
        if "ensemble" in params:
            logits_UxNxL = ensemble_logits(params["ensemble"], logits_UxNxL)
        items = take(data.pairs.items, drawn)
        said_UxN = _scores(self.teacher, data.teacher, users, items)
        distances = jax.vmap(distillation_loss, in_axes=(-1, None))(logits_UxNxL, said_UxN)
        return jnp.mean(distances)


def labelled_batch(data: Any, rows: jax.Array, drawn: jax.Array) -> dict:
    """Return a batch of `joint_loss`: labelled pairs, and drawn items that are not liked next.

    Args:
      data: a `Known` whose pairs have labels [N, T], the next item first, NaN where there is none.
      rows: int [B], of the pairs.
      drawn: int [N], items; each is seen with one of the batch's users, and has no label of other
        tasks.
    """
    pairs, own = data.pairs, data.pairs.positives[rows]
    users = jnp.concatenate([rows, jnp.resize(rows, drawn.shape)])
    ids = jnp.concatenate([own, drawn])
    # A drawn item that is the user's own says nothing.
    unlike = jnp.where(drawn == pairs.positives[users[rows.size :]], jnp.nan, 0.0)
    tasks = pairs.labels.shape[1]
    others = jnp.full((drawn.size, tasks), jnp.nan).at[:, 0].set(unlike)
    labels = jnp.concatenate([pairs.labels[rows], others])
    return batch_of(data, users=users, ids=ids, labels=labels, negatives=drawn)


def _vectors_loss(batch: dict, step: jax.Array, config: LTIConfig) -> jax.Array:
    """Return the loss that LTI has of nodes, of the items' own vectors."""
    weights = batch["weights"] / jnp.maximum(jnp.sum(batch["weights"]), 1e-9)
    shared = batch["negatives"]
    losses = supervised_loss(batch, batch["positives"], shared=shared, config=config)
    return warmup(step, config) * jnp.sum(weights * losses)


def _scores(model: MoNNConfig, params: Any, users: tuple, items: tuple) -> jax.Array:
    """Return the logits of the next item, float [U, N], of all pairs."""
    encoded = encode_users(model, params, features=users[0], counts=users[1])
    catalogue = encode_items(model, params, features=items[0], attributes=items[1])
    return score_all(MoNNScorer(model, NEXT), params, users=encoded, items=catalogue)
