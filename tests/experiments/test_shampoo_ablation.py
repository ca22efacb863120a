"""The comparison of optimizers: every task in small, one choice at a time, all tasks joined."""

import json

import numpy as np
import pytest

from experiments import shampoo_ablation
from experiments.harness.plots import draw_figure
from experiments.studies.optimizers import axes
from experiments.studies.optimizers.outcomes import panels_of

RIVALS = ("adamw", "muon")


def figures_in(folder):
    summary = json.loads((folder / "summary.json").read_text())
    return {**summary["baselines"], **summary["metrics"]}, summary


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The run folder of the smallest comparison with the default's six evaluations."""
    folder = tmp_path_factory.mktemp("characters") / "run"
    text = folder.parent / "rhyme.txt"
    text.write_text("the cat sat on the mat, and that was that. " * 200)
    flags = ["--data", str(text), "--preset", "smoke", "--devices", "1", "--steps", "60"]
    shampoo_ablation.main(["characters", *flags, "--batch-size", "8", "--out", str(folder)])
    return folder


@pytest.mark.slow
@pytest.mark.long
def test_figures_agree_with_one_another(compared):
    figures, summary = figures_in(compared)
    assert "<rhyme>" in summary["command"]
    assert set(summary["baselines"]) == {n for n in figures if n.partition("/")[0] in RIVALS}
    for name in (*RIVALS, "shampoo"):
        assert figures[f"{name}/validation_loss"] < 3.0
        rate = f"{figures[f'{name}/chosen_rate']:.4g}"
        assert figures[f"{name}/{rate}/weight_decay"] == figures[f"{name}/chosen_weight_decay"]
        assert figures[f"{name}/0/60/validation_loss"] == figures[f"{name}/validation_loss"]
        steps, ms = (figures[f"{name}/{key}"] for key in ("steps_to_target", "step_ms"))
        seconds = figures[f"{name}/seconds_to_target"]
        assert seconds == (None if steps is None else pytest.approx(steps * ms / 1e3))
    assert figures["adamw/target"] == figures["adamw/0/60/validation_loss"]
    assert figures["adamw/steps_to_target"] == 60
    for name in ("adamw", "shampoo"):
        shorter = {f"{name}/length {length}/0/validation_loss" for length in ("0.5", "0.67")}
        assert shorter < set(figures)


@pytest.mark.slow
@pytest.mark.long
def test_the_report_has_every_table_and_says_who_is_first(compared):
    report = (compared / "report.md").read_text()
    titles = ("To a validation loss of", "At the end", "A whole schedule in less time")
    titles += ("Validation loss that few trials find", "Time of a training step", "Chosen by")
    assert all(f"### {title}" in report for title in titles)
    assert "Steps, of 60, to where tuned AdamW ends: AdamW 60 (" in report


@pytest.mark.slow
@pytest.mark.long
def test_the_plots_come_from_the_summary_alone(compared):
    figures, _ = figures_in(compared)
    drawn = draw_figure(panels_of(figures))
    assert [axis.get_title() for axis in drawn.axes] == [
        "Loss by step",
        "Loss by second",
        "The end by learning rate",
        "What few trials find",
    ]


@pytest.mark.long
def test_a_finished_comparison_is_resumed_without_training(compared):
    before, _ = figures_in(compared)
    logs = [compared / "metrics.jsonl", compared / "test-log.jsonl"]
    lines = [log.read_text() for log in logs]
    shampoo_ablation.main(["--resume", str(compared)])
    after, _ = figures_in(compared)
    assert [log.read_text() for log in logs] == lines
    assert len(lines[1].splitlines()) == 1
    timed = ("ms", "seconds_to_target")
    assert all(before[n] == after[n] for n in before if not n.endswith(timed))


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [
        "sequences",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("digits", "mnist", "cifar10")),
    ],
)
def test_every_task_runs_without_a_download(task, tmp_path):
    flags = ["--preset", "smoke", "--devices", "1", "--optimizers", "adamw", "--evaluations", "2"]
    shampoo_ablation.main([task, *flags, "--out", str(tmp_path / "run")])
    figures, _ = figures_in(tmp_path / "run")
    assert np.isfinite(figures["adamw/test_loss"])
    other = "ndcg@10" if task == "sequences" else "accuracy"
    assert 0 <= figures[f"adamw/test_{other}"] <= 1


@pytest.mark.long
def test_axes_change_one_choice_at_several_rates(tmp_path, monkeypatch):
    name = "preconditioner (root inverse)"
    monkeypatch.setattr(axes, "AXES", {name: {"SOAP": axes.AXES[name]["SOAP"]}})
    flags = ["--axes", "--preset", "smoke", "--devices", "1", "--out", str(tmp_path / "run")]
    shampoo_ablation.main(["characters", *flags])
    figures, summary = figures_in(tmp_path / "run")
    expected = {
        f"axes/{axis}/{setting}/{multiple}/0/validation_loss"
        for axis, setting in (("default", "default"), (name, "SOAP"))
        for multiple in ("0.5", "1", "2")
    }
    assert set(figures) >= expected  # and more multiples where the best is outermost
    assert all(key.startswith("axes/default/") for key in summary["baselines"])
    (panel,) = draw_figure(panels_of(figures)).axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["default", "SOAP"]


@pytest.mark.long
def test_directions_are_trained_at_the_lengths_of_two(tmp_path):
    flags = ["--directions", "--preset", "smoke", "--devices", "1", "--out", str(tmp_path / "run")]
    shampoo_ablation.main(["digits", *flags])
    figures, summary = figures_in(tmp_path / "run")
    names = ("adamw", "muon", "shampoo")
    assert set(figures) == {
        f"directions/{name}/{lengths}/0/validation_loss"
        for name in names
        for lengths in ("muon", "shampoo")
    }
    assert all(np.isfinite(value) for value in figures.values())
    assert {key.split("/")[1] for key in summary["baselines"]} == {"adamw", "muon"}
    left, right = draw_figure(panels_of(figures)).axes
    assert left.get_title() == "directions at Muon's lengths"
    assert [label.get_text() for label in right.get_yticklabels()] == ["AdamW", "Muon", "Shampoo"]


def keep(folder, task, steps):
    """Keep a summary: each of two seeds is at the target from a step on; evaluations every 20."""
    figures = {"adamw/target": 1.0}
    for name, seeds in steps.items():
        median = float(np.median(seeds))
        median = None if median > 300 else median
        figures |= {f"{name}/{m}_to_target": median for m in ("steps", "seconds")}
        for seed, first in enumerate(seeds):
            losses = {at: 1.0 if at >= first - 20 else 2.0 for at in range(20, 301, 20)}
            figures |= {f"{name}/{seed}/{at}/validation_loss": y for at, y in losses.items()}
    record = {"experiment": f"shampoo_ablation {task}", "baselines": figures, "metrics": {}}
    (folder / f"shampoo-ablation-{task}.json").write_text(json.dumps(record))


def test_kept_tasks_are_joined(tmp_path):
    keep(tmp_path, "digits", {"adamw": [300, 300], "shampoo": [180, 220]})
    keep(tmp_path, "characters", {"adamw": [100, 100], "shampoo": [60, 1000]})
    out = ["--results", str(tmp_path), "--devices", "1", "--out", str(tmp_path / "run")]
    shampoo_ablation.main(["profile", *out])
    figures, _ = figures_in(tmp_path / "run")
    shares = [figures[f"{n}/steps/{r}/share"] for n in ("adamw", "shampoo") for r in ("1", "1.5")]
    assert shares == [0.5, 1.0, 0.5, 0.5]
    parts = {
        part: figures[f"shampoo/digits/{part}_of_adamw"] for part in ("steps", "least", "most")
    }
    assert parts == pytest.approx({"steps": 2 / 3, "least": 0.6, "most": 220 / 300})
    assert "shampoo/characters/steps_of_adamw" not in figures
    report = (tmp_path / "run" / "report.md").read_text()
    assert "| Shampoo | never (0.60 to never) | 0.67 (0.60 to 0.73), 0.67 |" in report


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits", "--steps", "100"], "--steps: expected a multiple of 24 evaluations, found 100"),
        (["digits", "--optimizers", "sgd"], "--optimizers: expected adamw among them, found sgd"),
        (["digits", "--trial-seed", "2"], "--trial-seed: expected a seed outside of 0 to 4, fou"),
        (["digits", "--trials", "1"], "--trials: expected at least 2, found 1"),
        (["digits", "--trials-from", "no.jsonl"], "--trials-from: expected files, found no.jsonl"),
        (["sequences", "--length", "1"], "--length: expected at least 2, found 1"),
        (["profile", "--results", "."], "expected shampoo-ablation-*.json of a comparison, found"),
    ],
)
def test_what_does_not_fit_is_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        shampoo_ablation.main([*words, "--out", str(tmp_path / "run")])
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
