"""The loss of a recipe: which parameters each learner trains, what distillation adds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.studies.rated_scorer import Scorer
from experiments.studies.tables import recipe_training
from experiments.studies.tables.brute import Trained
from experiments.studies.tables.config import TablesConfig
from experiments.studies.tables.recipe_loss import RecipeLoss, labelled_batch
from experiments.studies.tables.recipe_training import Problem
from experiments.studies.tables.recipes import BY_TABLE, FULL, LEARNERS, PARTS
from hsnn_jax.lists.levels import nodes_of_items
from hsnn_jax.monn.network import init_monn
from hsnn_jax.training.joint_levels import LevelPairs
from tests.experiments.studies.tables.conftest import tiny_config

CONFIG = TablesConfig(
    batch_size=8, negatives=8, pairs=40, crosses=("genre",), nodes=4, ablation_steps=10
)
KMEANS, EM = BY_TABLE[LEARNERS]
WITHOUT = {own.name.removeprefix("LTI without "): own for own in BY_TABLE[PARTS]}
ROWS, DISTIL = jnp.arange(8), "distillation"


@pytest.fixture(scope="module")
def problem(examples):
    """A problem of tiny models that were not trained."""
    alone = []
    for name in ("XS", "M"):
        scorer = Scorer(tiny_config(name, examples, crosses=CONFIG.crosses), examples)
        alone.append(Trained(name, 0, scorer, init_monn(jax.random.key(5), scorer.config)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(recipe_training, "model_config", tiny_config)
        problem = Problem(examples, CONFIG, 0, *alone)
        _ = problem.models
    return problem


def data_of(problem, recipe, params):
    return problem.lists(recipe)(params, LevelPairs(problem.drawn[0], (), ()))


def loss_of(problem, recipe):
    """The loss of a recipe from initial values, as a function of some of the parameters."""
    joint, start = problem.joint(recipe), problem.start(recipe)
    loss = RecipeLoss(recipe, joint, problem.teacher.scorer.config, CONFIG.negatives)
    given = {"data": data_of(problem, recipe, start), "key": jax.random.key(1)}
    return start, lambda some: loss(start | some, rows=ROWS, step=jnp.asarray(9), **given)


@pytest.mark.parametrize("recipe", [FULL, EM, KMEANS], ids=lambda own: own.learner)
def test_lti_and_em_train_the_nodes_and_k_means_does_not(problem, recipe):
    start, loss = loss_of(problem, dataclasses.replace(recipe, distillation=False))
    moved = jax.jit(jax.grad(loss))({"nodes": start["nodes"]})["nodes"][0]
    assert bool(jnp.abs(moved).max() > 0) == (recipe is not KMEANS)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("recipe", [FULL, EM, KMEANS, WITHOUT["ensemble"]], ids=lambda r: r.name)
def test_every_recipe_trains_both_models(problem, recipe):
    start, loss = loss_of(problem, recipe)
    gradients = jax.jit(jax.grad(loss))({k: v for k, v in start.items() if k != "nodes"})
    assert set(gradients) == {"models"} | ({"ensemble"} if recipe.ensemble else set())
    for own in gradients["models"]:
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(own)) > 0


@pytest.mark.long
def test_distillation_adds_the_cross_entropy_to_the_teachers_odds(problem):
    whole, less = (float(jax.jit(loss_of(problem, own)[1])({})) for own in (FULL, WITHOUT[DISTIL]))
    # Of untrained models' odds of 8 items: near log 8.
    assert whole - less == pytest.approx(np.log(8), rel=0.3)


def test_k_means_keeps_the_lists_of_the_other_two_tower_and_em_lists_by_its_nodes(problem):
    start = problem.start(FULL)
    kept, own = (problem.listing(recipe, start).indexes for recipe in (KMEANS, EM))
    other = start | {"models": jax.tree.map(lambda x: x + 0.1, start["models"])}
    again = problem.listing(KMEANS, other).indexes
    np.testing.assert_array_equal(kept[0].lists, again[0].lists)
    np.testing.assert_array_equal(kept[0].lists, problem.separate.lists)
    assert not np.array_equal(kept[0].lists, own[0].lists)
    assert not np.allclose(kept[0].nodes, again[0].nodes)  # in the space of the items as they are
    np.testing.assert_allclose(own[0].nodes, start["nodes"][0])


def test_recipes_start_at_the_same_values(problem):
    starts = [problem.start(own) for own in (FULL, EM, KMEANS, WITHOUT["ensemble"])]
    assert "ensemble" not in starts[-1]
    for own in starts[1:]:
        same = {name: starts[0][name] for name in own}
        jax.tree.map(np.testing.assert_array_equal, same, own)


def test_a_batch_has_labels_of_rated_pairs_and_drawn_items_that_are_not_next(problem):
    data = data_of(problem, FULL, problem.start(FULL))
    own = data.pairs.positives[ROWS]
    drawn = jnp.concatenate([own[:1], own[1:2] + 1])  # of users 0 and 1: the own item, another
    batch = labelled_batch(data, ROWS, drawn)
    liked = np.asarray(data.pairs.labels[ROWS, 1])
    assert 0 < liked.mean() < 1
    np.testing.assert_array_equal(batch["mask"][:8, 0], liked == 1)
    np.testing.assert_array_equal(batch["labels"][:8, 1], liked)
    assert batch["mask"][8:].tolist() == [[False, False], [True, False]]
    assert not batch["labels"][8:].any()
    node = nodes_of_items(data.indexes)[-1]
    reps = batch["representatives"][0][0]["id"]
    np.testing.assert_array_equal(node[reps], node[batch["item_ids"]])
