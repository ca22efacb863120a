"""Levels trained by `Retriever.fit`: what they find, what they cost, and that they are kept."""

import numpy as np
import pytest

from experiments.retrieval.searchers import Requests
from experiments.studies.tables import joint
from experiments.studies.tables.config import TablesConfig
from experiments.studies.tables.joint import Joint, joint_name
from experiments.studies.tables.served import BATCH
from tests.experiments.studies.tables.conftest import tiny_config

CONFIG = TablesConfig(
    steps=2, evaluate_every=2, batch_size=16, negatives=8, pairs=60, crosses=("genre", "follows")
)


@pytest.mark.long
def test_levels_answer_within_their_budget_and_a_resumed_run_loads_them(run, examples, monkeypatch):
    monkeypatch.setattr(joint, "model_config", tiny_config)
    rows = examples.next_liked(1)[:20]
    requests = Requests({BATCH: examples.histories(rows)}, examples.seen(rows))

    def made():
        searcher = Joint(joint_name(("S", "XS")), run, examples, ("S", "XS"), 4, CONFIG, 0)
        searcher.build()
        return searcher

    first = made()
    assert first.name == "HSNN (MoNN S, two tower), trained together"
    part, whole = (first.search(requests, 5, budget=budget) for budget in (30, 10**6))
    for found in (part, whole):
        assert found.ids.shape == (20, 5)
        for ids, seen in zip(found.ids, requests.exclude):
            assert not np.isin(ids[ids >= 0], seen).any()
    assert part.items_scored < whole.items_scored and part.flops < whole.flops
    # Both user towers count, beside what a search of one node would.
    assert part.flops > first._towers > 0
    monkeypatch.setattr(Joint, "_trained", None)  # it would fail
    again = made().search(requests, 5, budget=30)
    np.testing.assert_array_equal(again.ids, part.ids)
