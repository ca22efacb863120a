"""The same seed on the same devices gives the same bits, for every command."""

import json
import re
import subprocess
import sys

import pytest

from experiments.__main__ import all_studies

STUDIES = sorted(study.name for study in all_studies())
# What depends on the clock, by the names of figures.
TIMED = re.compile(
    r"seconds|milliseconds|(^|[/_ ])ms($|[/_ ])|per_second|time|ratio|speed|fraction|overhead"
)
# Of the clock: times, memory as it happens to be, and where a fault happens to strike.
ONLY_TIMES = {"step_time", "step_profile", "index_time", "reliability"}


def run(name, folder):
    module, *task = name.split()
    subprocess.run(
        [
            *(sys.executable, "-m", f"experiments.{module}", *task),
            *("--preset", "smoke", "--devices", "1", "--out", str(folder)),
        ],
        check=True,
        capture_output=True,
    )
    summary = json.loads((folder / "summary.json").read_text())
    figures = {**summary["metrics"], **summary["baselines"]}
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [untimed(each) for each in (figures, *lines)]


def untimed(values):
    return {name: value for name, value in values.items() if not TIMED.search(name)}


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in STUDIES if name not in ONLY_TIMES])
def test_a_second_run_gives_the_same_figures(name, tmp_path):
    if name == "shampoo_ablation profile":
        pytest.skip("it joins what was kept")
    first, second = (run(name, tmp_path / folder) for folder in ("first", "second"))
    assert first == second
    assert any(first)
