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
    """Append one line to test-log.jsonl; call it before the split is evaluated.

    Args:
        run: its experiment and the hash of its config are noted.
        keep: the name under which the result will be kept; without one nothing is noted.
        reason: why this look at the test split was needed.
        split: which split was looked at.
        results: the folder of kept results.
    """
    if not keep:
        return
    line = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "experiment": run.experiment,
        "config_hash": config_hash(run.config),
        "result": keep,
        "split": split,
        "reason": reason,
    }
    results.mkdir(parents=True, exist_ok=True)
    with (results / "test-log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def finish(run: Run, *, keep: str | None) -> None:
    """End a command: keep its result where a name is given, and say where the run folder is."""
    if keep:
        keep_result(run, name=keep)
    print(f"run folder: {run.folder}")


def keep_result(run: Run, *, name: str, results: Path = RESULTS) -> None:
    """Copy summary and report to NAME.json, NAME.md and NAME.png, replacing earlier ones."""
    results.mkdir(parents=True, exist_ok=True)
    summary = (run.folder / "summary.json").read_text(encoding="utf-8")
    write_atomically(results / f"{name}.json", summary)
    report = (run.folder / "report.md").read_text(encoding="utf-8")
    write_atomically(results / f"{name}.md", report.replace("(report.png)", f"({name}.png)"))
    if (run.folder / "report.png").exists():
        shutil.copyfile(run.folder / "report.png", results / f"{name}.png")
