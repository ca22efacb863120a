"""Every recipe is trained from every seed, measured at one budget, and not done again."""

import jax
import numpy as np
import pytest

from experiments.harness.devices import make_mesh
from experiments.studies.rated_scorer import Scorer
from experiments.studies.tables import recipe_training
from experiments.studies.tables.ablated import Ablated
from experiments.studies.tables.brute import Trained
from experiments.studies.tables.config import TablesConfig
from experiments.studies.tables.recipe_training import Problem
from hsnn_jax.monn.network import init_monn
from tests.experiments.studies.tables.conftest import tiny_config

CONFIG = TablesConfig(
    models=("XS", "S", "M"),
    steps=2,
    evaluate_every=2,
    batch_size=8,
    negatives=8,
    pairs=40,
    events=100,
    crosses=("genre",),
    nodes=4,
    show=(2,),
    ablation_steps=4,
    ablation_seeds=2,
)


@pytest.mark.long
@pytest.mark.slow
def test_recipes_answer_within_one_budget_and_a_resumed_run_repeats_nothing(
    run, examples, monkeypatch
):
    monkeypatch.setattr(recipe_training, "model_config", tiny_config)
    trained = {}
    for name in CONFIG.models:  # from one seed: the other is trained where it is missing
        scorer = Scorer(tiny_config(name, examples, crosses=CONFIG.crosses), examples)
        params = jax.device_get(init_monn(jax.random.key(0), scorer.config))
        trained[name] = [Trained(name, 0, scorer, params)]
    ablated = Ablated(run, CONFIG, make_mesh(jax.devices()[:1]), trained)
    ablated.train()
    found = ablated.measure()
    users, events = len(examples.next_liked(2)), min(100, len(examples.rows(2)))
    assert list(found) == ["LTI", "k-means", "EM"]
    for own in found.values():
        assert own.hits.shape == own.hits_of_all.shape == (2, users)
        assert own.losses.shape == (2, events) and 0.2 < own.losses.mean() < 5
        assert own.items_scored <= CONFIG.budget(examples.num_items) and 1 <= own.used <= 4
    scored = [own.items_scored for own in found.values()]
    assert max(scored) - min(scored) < 0.5 * max(scored)
    monkeypatch.setattr(Problem, "train", None)  # it would fail
    (run.folder / "measured" / "recipe-EM-1-test.npz").unlink()
    again = Ablated(run, CONFIG, make_mesh(jax.devices()[:1]), trained).measure()
    for name, own in found.items():
        np.testing.assert_array_equal(again[name].hits, own.hits)
