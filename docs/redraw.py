"""Draw the plots of kept results again, from their JSON alone.

    python docs/redraw.py              # from the project's root: all that can be
    python docs/redraw.py hsnn-scale   # one, by its name

Each study draws its claim from the figures of summary.json; what was logged on the way, such as a
loss by step, is in no JSON and comes back when the study is repeated (README.md says of which).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
sys.path.insert(0, str(RESULTS.parents[1]))

from experiments.__main__ import all_studies  # noqa: E402
from experiments.harness.plots import Draw, save_figure  # noqa: E402


def panels_of(record: dict[str, Any]) -> Sequence[Draw]:
    """Return the plots of a kept summary's claim; none where its figures do not say it."""
    task = record["config"].get("task")
    names = {record["experiment"], f"{record['experiment']} {task}"}
    study = next(study for study in all_studies() if study.name in names)
    return study.claim_panels({**record["baselines"], **record["metrics"]})


def main(names: Sequence[str]) -> None:
    """Redraw results by name, or all."""
    for name in names or sorted(path.stem for path in RESULTS.glob("*.json")):
        panels = panels_of(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))
        if panels:
            save_figure(RESULTS / f"{name}.png", panels)
        print(f"{name}: {'drawn' if panels else 'its figures are not in the JSON'}")


if __name__ == "__main__":
    main(sys.argv[1:])
