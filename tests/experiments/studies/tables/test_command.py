"""The command: gates decide on table 1, tables 2 and 3 stand without; resumed runs agree."""

import json

import numpy as np
import pytest

from experiments import hsnn
from experiments.studies.tables import brute, distilled, gates, joint, recipe_training
from experiments.studies.tables.recipe_training import Problem
from tests.experiments.studies.tables.conftest import tiny_config

SMOKE = ["tables", "--preset", "smoke", "--devices", "1"]
# Interests that are no more than noise: nothing is to be found, whatever the model.
NOISE = ["--drawn.noise", "50", "--tables.steps", "2"]


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.long
def test_where_a_gate_fails_nothing_is_said_of_shares_and_the_test_part_is_not_seen(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    hsnn.main([*SMOKE, *NOISE, "--tables.show", "1", "--out", str(tmp_path / "run")])
    report = (tmp_path / "run" / "report.md").read_text()
    figures = summary(tmp_path / "run")["metrics"]
    assert figures["gate B/passed"] == 0
    assert "undecidable here; the smallest effect that could be seen is" in report
    assert "Table 1" not in report and "share" not in report.split("### Gates")[0]
    assert not (tmp_path / "run" / "test-log.jsonl").exists()
    assert not any(name.startswith("test/") for name in figures)
    assert "simulated" in report and "planted interests" in report


@pytest.mark.filterwarnings("ignore::hsnn_jax.SkewWarning")  # of nodes of four steps
@pytest.mark.long
def test_where_gates_pass_table_1_is_measured_and_a_resumed_run_says_the_same(
    tmp_path, monkeypatch
):
    """Any difference passes here: tiny models in a few steps make no gain that is clear."""
    monkeypatch.chdir(tmp_path)
    for module in (brute, distilled, joint):
        monkeypatch.setattr(module, "model_config", tiny_config)
    monkeypatch.setattr(gates, "CLEAR", -100.0)
    folder = tmp_path / "run"
    few = ["--seeds", "1", "--tables.trials", "1", "--tables.crosses", "genre", "follows"]
    few += ["--tables.show", "1"]
    few += ["--tables.steps", "4"]
    hsnn.main([*SMOKE, *few, "--out", str(folder)])
    report, first = (folder / "report.md").read_text(), summary(folder)["metrics"]
    assert "### Table 1, test" in report
    assert len((folder / "test-log.jsonl").read_text().splitlines()) == 1
    for name in ("HSNN (MoNN M, MoNN S), trained together", "popularity", "MoNN M"):
        assert 0 <= first[f"test/{name}/recall@50"] <= 1
        assert first[f"test/{name}/cpu_ms"] > 0
    assert "### Filters that leave 1% of the items, test" in report
    few = "test/HSNN (MoNN M, MoNN S), trained together/filtered"
    assert 0 < first[f"{few}/items_scored"] < 20 < 1000 * first[f"{few}/recall@5"]
    of_hsnn = first["test/HSNN (MoNN M, MoNN S), trained together/flops"]
    assert 0 < of_hsnn < first["test/MoNN M/flops"]
    assert "two tower + a weight per cross" in report
    # Of 120 items 50 may be scored: as many as are looked for, so that the two tower finds none.
    assert first["test/two tower/far/recall@50"] == 0 < first["test/far/users"]
    # What was measured stays; what was lost of a model is measured again, to the same figures.
    (folder / "measured" / "M-0-validation.npz").unlink()
    hsnn.main(["tables", "--resume", str(folder)])
    again = summary(folder)["metrics"]
    assert {name: again[name] for name in first} == pytest.approx(first, nan_ok=True)


@pytest.mark.long
def test_tables_2_and_3_stand_where_a_gate_fails_and_a_resumed_run_says_the_same(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for module in (brute, recipe_training):
        monkeypatch.setattr(module, "model_config", tiny_config)
    monkeypatch.setattr(gates, "CLEAR", 100.0)
    folder = tmp_path / "run"
    hsnn.main([*SMOKE, *NOISE, "--seeds", "1", "--out", str(folder)])
    report, first = (folder / "report.md").read_text(), summary(folder)["metrics"]
    assert first["gate B/passed"] == 0 and "Table 1" not in report
    assert "### Table 2, test" in report and "### Table 3, test" in report
    assert "The large model does not beat the small one here" in report
    assert first["test/LTI/ne"] > 0 and "test/EM/ne_difference" in first
    assert len((folder / "test-log.jsonl").read_text().splitlines()) == 1
    for name in ("LTI", "k-means", "EM", "LTI without schedule", "LTI without ensemble"):
        assert 0 <= first[f"test/{name}/recall@50"] <= 1
    assert "test/LTI/difference" not in first and "test/EM/difference_se" in first
    monkeypatch.setattr(Problem, "train", None)  # it would fail
    hsnn.main(["tables", "--resume", str(folder)])
    again = summary(folder)["metrics"]
    assert {name: again[name] for name in first} == pytest.approx(first, nan_ok=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tables.models", "XS", "S"], "--tables.models: expected XS, S, then some of M, L, XL"),
        (["--tables.models", "XS", "S", "L", "M"], "--tables.models: expected XS, S, then some"),
        (["--tables.crosses", "x"], "--tables.crosses: expected some of genre, follows, found x"),
        (["--tables.share", "2"], r"--tables.share: expected a share in \(0, 1], found 2"),
        (["--tables.trials", "5"], "--tables.trials: expected 1 to 4, found 5"),
        (["--tables.show", "4"], "--tables.show: expected some of 1, 2, 3, once each, found 4"),
        (["--tables.show", "2", "2"], "--tables.show: expected some of 1, 2, 3, once each, found"),
        (["--tables.ablation-seeds", "0"], "--tables.ablation-seeds: expected at least 1, found 0"),
        (["--drawn.events", "61"], "--drawn.events: expected at most half of the items, 60, found"),
    ],
)
def test_what_does_not_fit_is_refused(flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        hsnn.main([*SMOKE, *flags, "--out", str(tmp_path / "out")])
    shown = capsys.readouterr().err
    assert np.any([part in shown for part in (message, message.replace("\\", ""))])
