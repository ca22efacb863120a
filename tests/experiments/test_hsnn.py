"""The other tasks of experiments.hsnn: each command on small data."""

import dataclasses
import json
import re

import numpy as np
import pytest

from experiments import hsnn


@pytest.mark.long
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
    "estimate": (["--estimate.users", "8"], "inner product/switch off/all/gain"),
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

LONG = {"estimate", "scorers", "interests", "drift", "planted", "learning"}  # with `make test-long`


@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=[pytest.mark.long] * (task in LONG)) for task in RUNS]
)
def test_the_command_leaves_a_run_folder(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags, figure = RUNS[task]
    arguments = ["--task", task, "--preset", "smoke", "--devices", "1"]
    hsnn.main([*arguments, "--out", str(tmp_path / "run"), *flags])
    metrics = json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]
    assert np.isfinite(metrics[figure])
    assert "###" in (tmp_path / "run" / "report.md").read_text()
    assert (tmp_path / "run" / "report.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "hsnn TASK: expected one of frontier, scorers, .*, found None"),
        (["colour"], "hsnn TASK: expected one of frontier, scorers, .*, found colour"),
        (["scorers", "--scorers.models", "S"], "--scorers.models: expected XS, then some of"),
        (["scorers", "--scorers.popular", "1"], r"--scorers.popular: expected a share in \[0, 1\)"),
        (["learning", "--learning.variants", "x"], "--learning.variants: expected some of"),
        (["interests", "--interests.models", "S"], "--interests.models: expected XS, then some of"),
        (["planted", "--planted.remedies", "x"], "--planted.remedies: expected some of"),
        (["scale", "--scale.items", "5"], "--scale.items: expected sizes of at least 2000"),
        (["frontier", "--seeds", "0"], "--seeds: expected at least 1, found 0"),
        (["frontier", "--frontier.nodes", "0"], "--frontier.nodes: expected a number above 0, fou"),
        (["learning", "--graph.rate", "-1"], "--graph.rate: expected a number above 0, found -1.0"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as error:
        hsnn.main([*flags, "--out", str(tmp_path / "out")])
    assert error.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", hsnn.STUDIES)
def test_help_shows_the_options_of_the_task_only(task, capsys):
    with pytest.raises(SystemExit) as exit_:
        hsnn.main([task, "--help"])
    assert not exit_.value.code
    flags = re.findall(r"^[│\s]*(--[\w.-]+)", capsys.readouterr().out, re.MULTILINE)
    assert "--out" in flags and len(flags) <= 45  # a screen or two; 14 are of every command
    groups = {flag[2:].split(".")[0] for flag in flags if "." in flag}
    own = {field.name for field in dataclasses.fields(hsnn.STUDIES[task].presets["default"])}
    assert groups <= own and (task in groups)


def test_help_alone_lists_the_tasks(capsys):
    hsnn.main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"\n{task}: " in shown for task in hsnn.STUDIES)
