"""The models of all levels trained with the nodes, from features to a retriever."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from hsnn_jax import LTIConfig, Retriever, Training
from hsnn_jax.monn.config import Features, level_presets
from hsnn_jax.nodes.joint import JointConfig, init_joint
from tests.hsnn.planted import same_answers
from tests.hsnn.training.test_one_model import ITEMS, PAIRS, TOWER, drawn

NODES, MODELS = level_presets(
    [("S", 6)],
    items="XS",
    user=Features(dense={"taste": 4}),
    item=Features(dense={"text": 4}),
    crosses=("category",),
    num_user=1,
    overarch="dot",
    width=8,
    **dict.fromkeys(("user_tower", "item_tower", "interaction_tower"), TOWER),
)
# One loss at all steps: no ramp, one temperature.
CONFIG = LTIConfig(
    num_nodes=NODES,
    kmeans_iterations=3,
    logit_scale=1.0,
    warmup_steps=0,
    alpha_max=5.0,
    alpha_exponent=0.0,
)
TRAINING = Training(steps=40, evaluate_every=20, batch_size=32, negatives=64, progress=False)
TX = optax.adam(2e-2)


@functools.cache
def fitted():
    users, items, positives = drawn()
    retriever = Retriever(CONFIG, model=MODELS)
    records = retriever.fit(users, items, positives=positives, tx=TX, training=TRAINING, reserve=2)
    return retriever, records


def some(users, rows):
    return jax.tree.map(lambda x: np.asarray(x)[rows], users)


def test_sizes_make_models_and_nodes():
    assert NODES == (6,)
    assert [model.overarch for model in MODELS] == ["dot", "dot"]
    assert [model.crosses for model in MODELS] == [("category",), ()]
    with pytest.raises(ValueError, match="levels: expected at least one, found none"):
        level_presets([], items="XS", user=MODELS[0].user, item=MODELS[0].item)


def test_the_joint_loss_falls_and_the_best_is_kept():
    retriever, records = fitted()
    assert [record["step"] for record in records] == [20, 40]
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[-1]["validation_loss"] < records[0]["validation_loss"]
    # What is served at a full budget finds what the best validation found.
    users, _, positives = drawn()
    held = np.sort(np.random.default_rng(0).permutation(PAIRS)[: PAIRS // 10])
    found = retriever.search(some(users, held), 10, budget=ITEMS).ids == positives[held, None]
    best = max(record["recall@10"] for record in records)
    # Lists are as long as reserve asks: an item may lie at another node.
    assert found.any(axis=1).mean() == pytest.approx(best, abs=0.03)
    assert best > 2 * 10 / ITEMS


@pytest.mark.long
def test_the_nodes_are_those_that_were_trained():
    retriever, _ = fitted()
    np.testing.assert_array_equal(retriever.indexes[0].nodes, retriever.params["nodes"][0])
    untrained = Retriever(CONFIG, model=MODELS)
    still = dataclasses.replace(TRAINING, steps=1)
    users, items, positives = drawn()
    untrained.fit(users, items, positives=positives, tx=TX, training=still)
    assert np.abs(untrained.params["nodes"][0] - retriever.params["nodes"][0]).max() > 1e-3


def test_it_serves_is_saved_and_loaded(tmp_path):
    retriever, _ = fitted()
    users, items, _ = drawn()
    few = some(users, np.arange(4))
    retriever.save(tmp_path / "levels")
    loaded = Retriever.load(tmp_path / "levels")
    same_answers(retriever.search(few, 5, budget=60), loaded.search(few, 5, budget=60))
    loaded.add(some(items, np.arange(1)), [ITEMS + 7])
    assert loaded.stats()["items"] == ITEMS + 1


@pytest.mark.long
def test_parameters_without_an_ensemble_are_trained_and_served_so():
    users, items, positives = drawn()
    params = init_joint(
        jax.random.key(0), JointConfig(models=MODELS, index=CONFIG), item_features=items[0]
    )
    params.pop("ensemble")
    retriever = Retriever(CONFIG, model=MODELS, params=params)
    records = retriever.fit(users, items, positives=positives, tx=TX, training=TRAINING)
    assert records[-1]["loss"] < records[0]["loss"] and set(retriever.params) == {"models", "nodes"}
    # All items scored, by the last model alone, are what its training validated.
    held = np.sort(np.random.default_rng(0).permutation(PAIRS)[: PAIRS // 10])
    found = retriever.search(some(users, held), 10, budget=ITEMS).ids == positives[held, None]
    best = max(record["recall@10"] for record in records)
    assert found.any(axis=1).mean() == pytest.approx(best, abs=1e-6)


@pytest.mark.long
def test_labels_are_learned_at_every_level():
    users, items, positives = drawn()
    rng = np.random.default_rng(2)
    liked = rng.random(PAIRS) < 0.5
    shown = np.where(liked, positives, rng.integers(0, ITEMS, PAIRS))
    labels = np.where(rng.random(PAIRS) < 0.1, np.nan, liked)
    retriever = Retriever(CONFIG, model=MODELS)
    given = {"positives": shown, "labels": labels, "tx": TX, "training": TRAINING}
    records = retriever.fit(users, items, **given)
    assert records[-1]["validation_loss"] < records[0]["validation_loss"]
