"""Every contender answers requests of one form, or says why it does not."""

import jax
import numpy as np
import pytest

from experiments.harness.devices import make_mesh
from experiments.retrieval.rivals import answer
from experiments.studies.rated_scorer import Scorer
from experiments.studies.tables.brute import Trained
from experiments.studies.tables.config import TablesConfig
from experiments.studies.tables.contenders import contenders
from experiments.studies.tables.served import asked_of
from hsnn_jax.monn.network import init_monn
from tests.experiments.studies.tables.conftest import tiny_config

CONFIG = TablesConfig(models=("XS", "S", "M"), crosses=("genre", "follows"), nodes=4, share=0.4)
TRAINS = ("trained together", "distilled")  # their own tests train them


@pytest.mark.long
@pytest.mark.slow
def test_contenders_find_unseen_items_and_say_what_that_costs(run, examples):
    models = {}
    for name in CONFIG.models:
        scorer = Scorer(tiny_config(name, examples, crosses=CONFIG.crosses), examples)
        params = jax.device_get(init_monn(jax.random.key(0), scorer.config))
        models[name] = Trained(name, 0, scorer, params)
    asked, ms = asked_of(examples, 1, models=list(models.values()))
    assert set(ms) == {"two tower", "MoNN S", "MoNN M"} and min(ms.values()) > 0
    users = len(examples.next_liked(1))
    mesh = make_mesh(jax.devices()[:1])
    found = contenders(run, models, asked, best="S", config=CONFIG, mesh=mesh)
    names = [rival.name for rival in found]
    assert len(set(names)) == len(names)
    for sizes in ("MoNN S, two tower", "MoNN S, MoNN S", "MoNN M, MoNN S"):
        assert f"HSNN ({sizes}), trained together" in names
    assert {"popularity", "Markov", "item-KNN", "two tower + w Markov"} <= set(names)
    for rival in found:
        if rival.reason or any(word in rival.name for word in TRAINS):
            assert rival.reason.startswith("n/a: ") or len(rival.settings) in (2, 3, 4)
            continue
        searcher, budget = rival.built(next(iter(rival.settings)))
        got = answer(searcher, asked, k=10, budget=budget)
        assert got.hits.shape == (users,) and set(np.unique(got.hits)) <= {0, 1}
        # A graph computes an item's distance on each of its layers.
        assert 0 < got.items_scored <= (160 if "HNSW" in rival.name else 80) and got.cpu_ms > 0
        assert np.isnan(got.flops) or got.flops > 0
        assert set(rival.reads) <= set(ms)
