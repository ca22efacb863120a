"""The other tasks of experiments.hsnn: each command on small data."""

import json

import numpy as np
import pytest

from experiments import hsnn


def test_a_stopped_scale_run_keeps_what_it_has_measured(tmp_path):
    folder = tmp_path / "run"
    first = ["--task", "scale", "--preset", "smoke", "--baselines", "none"]
    hsnn.main([*first, "--out", str(folder)])
    whole = json.loads((folder / "summary.json").read_text())["metrics"]
    path = folder / "metrics.jsonl"
    kept, lost = path.read_text().splitlines(keepends=True)
    path.write_text(kept + lost[:10])  # as a kill leaves it, in the middle of a line
    hsnn.main([*first, "--resume", str(folder)])
    again = json.loads((folder / "summary.json").read_text())["metrics"]
    same = {name for name in whole if again[name] == whole[name]}
    # Times of the size that was measured before are the same; those of the other were taken anew.
    assert {name for name in whole if "/2000/" in name} <= same
    assert "HSNN/6000/flops" in same
    assert "HSNN/6000/build_seconds" not in same


RUNS = {
    "scorers": (
        ["--scorers.models", "XS", "--scorers.steps", "2"],
        "two tower, HSNN LTI/10%/recall",
    ),
    "learning": (
        ["--learning.variants", "separate k-means", "joint LTI", "--learning.steps", "2"],
        "joint LTI/truth_above",
    ),
    "scale": (["--scale.items", "2000"], "HSNN/2000/p99_ms"),
    "planted": (
        [*("--planted.optimizers", "SGD"), *("--planted.remedies", "all remedies")],
        "LTI, SGD, all remedies/0/purity",
    ),
    "interests": (
        ["--interests.models", "XS", "--interests.steps", "2"],
        "two tower, HSNN LTI/10%/recall",
    ),
    "drift": (["--drift.days", "2", "--drift.steps", "4"], "joint, trained on/recall"),
}


@pytest.mark.parametrize("task", RUNS)
def test_the_command_leaves_a_run_folder(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags, figure = RUNS[task]
    arguments = ["--task", task, "--preset", "smoke", "--devices", "1", "--baselines", "none"]
    hsnn.main([*arguments, "--out", str(tmp_path / "run"), *flags])
    metrics = json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]
    assert np.isfinite(metrics[figure])
    assert "###" in (tmp_path / "run" / "report.md").read_text()
    assert (tmp_path / "run" / "report.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "scale", "--data", "x"], "--data: expected none, task scale draws it"),
        (["--epochs", "3"], "--epochs: expected steps"),
        (["--scorers.models", "S"], "--scorers.models: expected XS, then some of"),
        (["--scorers.popular", "1"], "--scorers.popular: expected a share in [0, 1)"),
        (["--learning.variants", "x"], "--learning.variants: expected some of"),
        (["--interests.models", "S"], "--interests.models: expected XS, then some of"),
        (["--planted.remedies", "x"], "--planted.remedies: expected some of"),
        (["--scale.items", "5"], "--scale.items: expected sizes of at least 2000"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as error:
        hsnn.main(["--out", str(tmp_path / "out"), *flags])
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
