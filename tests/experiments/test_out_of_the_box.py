"""The command that fits a table without an option: its figures, its errors, its resumed run."""

import json

import numpy as np
import pytest

from experiments import out_of_the_box
from experiments.harness.errors import InputError
from experiments.harness.figures import over_seeds_and_users
from experiments.out_of_the_box import OutOfTheBox, ahead_of, found
from nxtpost_jax.evaluation.metrics import metrics_of_ranks
from tests.experiments.test_nxtpost import write_cycles


def test_the_error_is_of_users_and_of_seeds():
    baseline = metrics_of_ranks(np.array([11, 11, 1, 11]))
    same = [metrics_of_ranks(np.array([1, 11, 1, 1]))] * 2
    ahead = ahead_of(same, baseline)
    differences = np.array([1.0, 0, 0, 1])
    assert ahead.mean == pytest.approx(0.5)
    assert ahead.error == pytest.approx(differences.std(ddof=1) / 2)
    other = [same[0], metrics_of_ranks(np.array([11, 11, 1, 11]))]
    unsure = ahead_of(other, baseline)
    assert unsure.error == over_seeds_and_users(np.array([differences, np.zeros(4)]))[1]
    assert unsure.error > np.array([0.5, 0, 0, 0.5]).std(ddof=1) / 2  # of users alone
    assert not unsure.is_sure


def test_what_is_not_above_is_said():
    low, high = (metrics_of_ranks(np.full(50, rank)) for rank in (11, 1))
    text = found({"popularity": low, "markov": high}, {"ids": [metrics_of_ranks(np.full(50, 2))]})
    assert text.startswith("fit(table) is above popularity by two standard errors")
    assert "not above skip-3 Markov (-0.3691" in text


def test_unknown_models_are_refused():
    with pytest.raises(InputError, match="--models: expected some of ids, texts"):
        OutOfTheBox(models=("images",))


def test_the_command_fits_a_table_and_resumes_to_the_same_figures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_cycles(tmp_path)
    out = tmp_path / "run"
    out_of_the_box.main(
        ["--data", str(tmp_path), "--preset", "smoke", "--devices", "1", "--out", str(out)]
    )
    summary = json.loads((out / "summary.json").read_text())
    assert {name.split("/")[0] for name in summary["baselines"]} >= {"markov", "item_knn"}
    assert 0 <= summary["metrics"]["ids/0/ndcg@10"] <= 1
    assert (out / "report.png").exists()
    lines = (out / "metrics.jsonl").read_text().splitlines()
    out_of_the_box.main(["--resume", str(out), "--devices", "1"])
    again = json.loads((out / "summary.json").read_text())["metrics"]
    drop = {"ids/seconds"}
    assert {k: v for k, v in again.items() if k not in drop} == {
        k: v for k, v in summary["metrics"].items() if k not in drop
    }
    assert len((out / "metrics.jsonl").read_text().splitlines()) == len(lines)
