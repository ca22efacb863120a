"""Stale user vectors: what a vector of some age has seen, and the command."""

import json

import numpy as np
import pytest

from experiments import staleness
from experiments.harness.errors import InputError
from experiments.staleness import Staleness, old_enough, without_last
from nxtpost_jax import Queries, Sequences
from nxtpost_jax.evaluation.metrics import metrics_of_ranks
from tests.experiments.test_nxtpost import write_cycles


def test_a_vector_has_not_seen_the_last_events():
    sequences = Sequences(np.arange(6), np.array([0, 4, 5, 6]))
    assert [without_last(sequences, 2)[u].tolist() for u in range(3)] == [[0, 1], [], []]
    assert [without_last(sequences, 0)[u].tolist() for u in range(3)] == [[0, 1, 2, 3], [4], [5]]


def test_only_users_with_events_left_are_compared():
    queries = Queries(Sequences(np.arange(6), np.array([0, 4, 6])), [7, 8], [0, 1])
    assert old_enough(queries, 2, name="drawn").targets.tolist() == [7]
    with pytest.raises(InputError, match="drawn: expected users with more than 9 events"):
        old_enough(queries, 9, name="drawn")


@pytest.mark.long
def test_command_reports_what_age_costs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_cycles(tmp_path)
    monkeypatch.setattr(staleness, "LOSSES", {"short": staleness.LOSSES["short"]})
    out = tmp_path / "run"
    arguments = ["--data", str(tmp_path), "--preset", "smoke", "--devices", "1", "--out", str(out)]
    arguments += ["--optimizer", "adamw"]
    rates = ["--epochs", "30", "--evaluate-every", "10", "--adamw-rate", "0.01"]
    staleness.main([*arguments, *rates])
    summary = json.loads((out / "summary.json").read_text())
    fresh, stale = (summary["metrics"][f"short/0/{age}/ndcg@10"] for age in (0, 2))
    assert fresh > 0.9  # users walk in a circle: the last event tells the next
    assert stale < fresh
    assert {key.split("/")[0] for key in summary["baselines"]} >= {"markov", "item_knn"}
    same = [summary["baselines"][f"popularity/{age}/ndcg@10"] for age in (0, 2)]
    assert same[0] == same[1]
    assert (out / "report.png").exists()


def test_a_row_is_the_mean_over_seeds():
    one = [metrics_of_ranks(np.array(ranks)) for ranks in ([1, 1, 1], [1, 2, 11])]
    other = [metrics_of_ranks(np.array(ranks)) for ranks in ([1, 1, 2], [11, 11, 11])]
    table = staleness.table_of((0, 5), {"popularity": one}, {"short": [one, other]}, figure="hr@10")
    assert table.rows[0][:3] == ["NxtPost, short", 1.0, pytest.approx((2 / 3 + 0) / 2)]
    gains = [(1 + 1 / np.log2(3)) / 3, 0.0]
    whole = [1.0, (2 + 1 / np.log2(3)) / 3]
    assert table.rows[0][-1] == pytest.approx(sum(gains) / sum(whole))


@pytest.mark.parametrize("ages", [(1, 2), (0, 2, 2), ()])
def test_ages_start_at_now(ages):
    with pytest.raises(InputError, match="--ages: expected 0 and then larger ages"):
        Staleness(ages=ages)
