"""What all commands share: the ritual around a function that measures."""

import dataclasses
import json

import pytest

from experiments.harness.options import OneSeed, WithData
from experiments.harness.provenance import DataName
from experiments.harness.report import Table
from experiments.harness.study import NOT_KEPT, Outcome, Posed, Study, over_seeds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy(OneSeed, WithData):
    """A toy."""

    width: int | None = None


def pose(options):
    return Posed(41, DataName("<toys>", "ab"), dataclasses.replace(options, width=7))


def measure(setting):
    if setting.options.seed:
        setting.look_at_test("a look")
    table = Table(title="Toys", columns=("", "hr"), baselines=[["old", 0.1]], rows=[["new", 0.2]])
    return Outcome(
        title="Toys",
        intro="Drawn.",
        protocol={"split": "none"},
        metrics={"hr": setting.inputs + 1, "width": setting.options.width},
        baselines={"hr": 0.1},
        tables=[table],
        found="New is better.",
    )


STUDY = Study(
    name="toy",
    about="toys",
    minutes=1,
    claim="New toys are better.",
    presets={"default": Toy()},
    pose=pose,
    measure=measure,
)


def test_a_study_leaves_summary_report_and_what_was_found(tmp_path, capsys):
    STUDY.main(["--out", str(tmp_path / "run")])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["metrics"] == {"hr": 42, "width": 7}
    assert summary["seeds"] == [0]
    assert summary["config"]["data"] == {"name": "<toys>", "sha256": "ab"}
    report = (tmp_path / "run" / "report.md").read_text()
    for part in ("# Toys", "Claim: New toys are better.", "New is better.", "| new | 0.2 |"):
        assert part in report
    shown = capsys.readouterr().out
    assert "New is better." in shown and f"run folder: {tmp_path / 'run'}" in shown
    assert NOT_KEPT not in report  # nothing was looked at


def test_the_claim_is_drawn_from_the_figures_before_other_panels(tmp_path):
    drawn = []

    def claim_panels(figures):
        drawn.append(dict(figures))
        return [lambda axes: drawn.append("claim")]

    def with_a_panel(setting):
        return dataclasses.replace(measure(setting), panels=[lambda axes: drawn.append("further")])

    study = dataclasses.replace(STUDY, claim_panels=claim_panels, measure=with_a_panel)
    study.main(["--out", str(tmp_path / "run")])
    assert drawn == [{"hr": 42, "width": 7}, "claim", "further"]
    assert "(report.png)" in (tmp_path / "run" / "report.md").read_text()


def test_a_look_at_the_test_split_is_logged_and_said(tmp_path, capsys):
    out = tmp_path / "run"
    STUDY.main(["--out", str(out), "--seed", "1"])
    (line,) = (out / "test-log.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "a look" and json.loads(line)["result"] is None
    assert NOT_KEPT in (out / "report.md").read_text()
    assert NOT_KEPT in capsys.readouterr().out


def test_a_kept_look_is_in_both_logs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    STUDY.main(["--out", str(tmp_path / "run"), "--seed", "1", "--keep", "toys"])
    kept = tmp_path / "docs" / "results"
    assert (kept / "test-log.jsonl").read_text() == (
        tmp_path / "run" / "test-log.jsonl"
    ).read_text()
    assert (kept / "toys.json").exists()
    assert NOT_KEPT not in (kept / "toys.md").read_text()


def test_bad_input_is_one_line_and_leaves_no_folder(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        STUDY.main(["--out", str(tmp_path / "run"), "--seed", "-1"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "error: --seed: expected at least 0, found -1\n"
    assert not (tmp_path / "run").exists()


def test_outcomes_of_seeds_are_joined_with_their_range():
    def outcome(value):
        return Outcome(
            title="T",
            intro="",
            protocol={},
            metrics={"x=1/recall": value},
            baselines={"old/recall": 0.5},
            tables=[],
        )

    joined = over_seeds({3: outcome(0.2), 4: outcome(0.4)})
    assert joined.metrics == {"3/x=1/recall": 0.2, "4/x=1/recall": 0.4}
    ((name, mean, spread, least, most, count),) = joined.tables[0].rows
    assert (name, least, most, count) == ("x=1/recall", 0.2, 0.4, 2)
    assert mean == pytest.approx(0.3) and spread == pytest.approx(0.02**0.5)
