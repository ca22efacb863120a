"""Keep the outcome of a run in the project, and note every look at a test split on the way."""

from __future__ import annotations

import datetime
import json
import re
import shutil
from pathlib import Path

from experiments.harness.errors import bad_input
from experiments.harness.provenance import config_hash
from experiments.harness.run_folder import Run, write_atomically

RESULTS = Path("docs/results")  # from the project's root, where the commands are run
TEST_LOG = "test-log.jsonl"  # beside kept results, and in every run folder


def check_keep(name: str | None, *, results: Path = RESULTS) -> None:
    """Raise InputError, before anything is trained, where a result cannot be kept."""
    if name is None:
        return
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise bad_input("--keep", expected="letters, digits, '.', '_' and '-'", found=repr(name))
    if not results.parent.is_dir():
        raise bad_input(
            "--keep",
            expected=f"the project's root as working folder, with {results.parent}/",
            found=f"no {results.parent}/",
        )


def log_test_evaluation(
    run: Run, *, keep: str | None, reason: str, split: str = "test", results: Path = RESULTS
) -> None:
    """Append one line to the run's test-log.jsonl; call it before the split is evaluated.

    Args:
        run: its experiment and the hash of its config are noted.
        keep: the name under which the result will be kept: the line then goes into the test-log
            of the kept results too.
        reason: why this look at the test split was needed.
        split: which split was looked at.
        results: the folder of kept results.
    """
    if not run.is_writer:
        return
    line = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "experiment": run.experiment,
        "config_hash": config_hash(run.config),
        "result": keep,
        "split": split,
        "reason": reason,
    }
    _append(run.folder, line)
    if keep:
        results.mkdir(parents=True, exist_ok=True)
        _append(results, line)


def _append(folder: Path, line: dict) -> None:
    with (folder / TEST_LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def looked_at_test(run: Run) -> bool:
    """Say whether a test split was looked at on the way to the run's figures."""
    return (run.folder / TEST_LOG).exists()


def keep_result(run: Run, *, name: str, results: Path = RESULTS) -> None:
    """Copy summary and report to NAME.json, NAME.md and NAME.png, replacing earlier ones."""
    results.mkdir(parents=True, exist_ok=True)
    summary = (run.folder / "summary.json").read_text(encoding="utf-8")
    write_atomically(results / f"{name}.json", summary)
    report = (run.folder / "report.md").read_text(encoding="utf-8")
    write_atomically(results / f"{name}.md", report.replace("(report.png)", f"({name}.png)"))
    if (run.folder / "report.png").exists():
        shutil.copyfile(run.folder / "report.png", results / f"{name}.png")
