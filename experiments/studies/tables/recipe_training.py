"""The levels of tables 2 and 3 from one seed: what all recipes share, their training and lists."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies.rated_scorer import K, model_config
from experiments.studies.tables.brute import Trained, has_negatives
from experiments.studies.tables.config import TablesConfig
from experiments.studies.tables.joint import VALIDATED, gathered, items_of, sides_of
from experiments.studies.tables.recipe_loss import NEXT, Known, RecipeLoss
from experiments.studies.tables.recipes import SIZES, Recipe
from experiments.tasks.rated_events import Examples
from hsnn_jax import Training
from hsnn_jax.lists.index import Index, build_index
from hsnn_jax.monn.config import MoNNConfig
from hsnn_jax.monn.network import item_vectors
from hsnn_jax.nodes.joint import JointConfig, init_joint
from hsnn_jax.nodes.kmeans import kmeans
from hsnn_jax.training.joint_levels import LevelPairs, fit_levels, listed, represented
from hsnn_jax.training.pairs import Pairs, pairs_of

ROUNDS = 10  # of EM; validations of all recipes
SLACK = 2.0  # of lists, as of a `Retriever`


def tasks_of(examples: Examples) -> tuple[str, ...]:
    """Return what the levels predict: of rated events, whether they are liked, too."""
    return (NEXT, "like") if has_negatives(examples) else (NEXT,)


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What all recipes of a seed share: pairs, which of them are held out, and initial values.

    Attributes:
      examples, config, seed: of the tables.
      two_tower, teacher: that were trained alone from this seed.
    """

    examples: Examples
    config: TablesConfig
    seed: int
    two_tower: Trained
    teacher: Trained

    @property
    def crosses(self) -> tuple[str, ...]:
        """What S and the teacher read beside features."""
        return self.config.crosses or ()

    @functools.cached_property
    def models(self) -> tuple[MoNNConfig, ...]:
        """The models of the levels."""
        given = (model_config(size, self.examples, crosses=self.crosses) for size in SIZES)
        tasks = tasks_of(self.examples)
        return tuple(dataclasses.replace(model, tasks=tasks) for model in given)

    @functools.cached_property
    def sides(self) -> Callable[..., Any]:
        """Compile what the models read of users: features and counts."""

        def both(batch):
            found = sides_of(batch, self.examples, crosses=self.crosses)
            return found if self.crosses else (found, None)

        return jax.jit(both)

    @functools.cached_property
    def items(self) -> tuple[Any, Any]:
        """What the models read of items: features, and attributes or None."""
        found = items_of(self.examples, crosses=self.crosses)
        return found if self.crosses else (found, None)

    @functools.cached_property
    def drawn(self) -> tuple[Pairs, np.ndarray]:
        """The pairs with their labels, and the rows of those that are held out."""
        examples = self.examples
        rng = np.random.default_rng([self.seed, 41])
        rows = examples.rows(0) if has_negatives(examples) else examples.liked(0)
        rows = rng.choice(rows, min(self.config.pairs, len(rows)), replace=False)
        held = examples.next_liked(1)
        held = rng.choice(held, min(VALIDATED, len(held)), replace=False)
        rows = np.concatenate([rows, held])
        liked = examples.labels[rows]
        labels = np.stack([np.where(liked == 1, 1.0, np.nan), liked], axis=1)
        labels = labels[:, : len(tasks_of(examples))]
        users = gathered(self.sides, examples, rows)
        given = {"positives": examples.items[rows], "labels": labels}
        pairs = pairs_of(users, self.items, num_tasks=labels.shape[1], **given)
        return pairs, np.arange(len(rows) - len(held), len(rows))

    def joint(self, recipe: Recipe) -> JointConfig:
        """Configure the levels as a recipe has them."""
        index = recipe.index(self.config.nodes, steps=self.config.ablation_steps)
        return JointConfig(models=self.models, index=index)

    def start(self, recipe: Recipe) -> Any:
        """Return the initial values, the same ones of every recipe."""
        params = init_joint(
            jax.random.key(self.seed), self.joint(recipe), item_features=self.items[0]
        )
        return params if recipe.ensemble else {k: v for k, v in params.items() if k != "ensemble"}

    def lists(self, recipe: Recipe) -> Callable[[Any, Any], Known]:
        """Return what lists the items by parameters, see `fit_levels`'s `refresh`."""
        config, teacher = self.joint(recipe), jax.tree.map(jnp.asarray, self.teacher.params)
        own = functools.partial(listed, config=config, slack=SLACK)
        if recipe.learner == "k-means":
            own = functools.partial(_kept, index=self.separate, config=config)
        return lambda params, data: Known(*own(params, data), teacher)

    @functools.cached_property
    def separate(self) -> Index:
        """The lists of the two tower that was trained alone, at k-means' nodes of its vectors."""
        own = self.two_tower
        vectors = np.asarray(own.scorer.encode_all(own.params)["vectors"])
        vectors = vectors.reshape(len(vectors), -1)
        nodes = kmeans(jnp.asarray(vectors), self.config.nodes, key=jax.random.key(self.seed))
        return build_index(vectors, nodes, slack=SLACK)

    def listing(self, recipe: Recipe, params: Any) -> Known:
        """List the items as a recipe serves them; no pairs are read."""
        unread = Pairs((), self.items, jnp.zeros(0, jnp.int32), None)
        return self.lists(recipe)(params, LevelPairs(unread, (), ()))

    def train(self, recipe: Recipe, tx: Any) -> Any:
        """Train all levels from the initial values; the parameters with the best recall.

        Args:
          recipe: see `Recipe`.
          tx: optax transform; the same object for all, so that equal steps are compiled once.
        """
        config, (pairs, held) = self.config, self.drawn
        joint = self.joint(recipe)
        params, _ = fit_levels(
            self.models,
            self.start(recipe),
            index=joint.index,
            slack=SLACK,
            pairs=pairs,
            tx=tx,
            training=Training(
                steps=config.ablation_steps,
                batch_size=config.batch_size,
                negatives=config.negatives,
                evaluate_every=max(1, config.ablation_steps // ROUNDS),
                patience=None,
                validation=held,
                k=min(K, self.examples.num_items),
                progress=False,
            ),
            seed=self.seed,
            task=NEXT,
            loss=RecipeLoss(recipe, joint, self.teacher.scorer.config, config.negatives),
            refresh=self.lists(recipe),
        )
        return params


def _kept(params: Any, data: Any, *, index: Index, config: JointConfig) -> LevelPairs:
    """Keep the lists; a node is the mean of its items as the models see them now."""
    features = data.pairs.items[0]
    vectors = item_vectors(config.models[-1], params["models"][-1], features=features)
    node = index.positions // index.lists.shape[1]
    ones = jnp.ones(node.shape[0])
    sums, counts = (jax.ops.segment_sum(x, node, index.lists.shape[0]) for x in (vectors, ones))
    index = index._replace(nodes=sums / jnp.maximum(counts, 1.0)[:, None])
    given = {"vectors": vectors, "distance": config.index.distance}
    return represented(data.pairs, (index,), **given)
