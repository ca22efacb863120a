"""Over all tasks: how often an optimizer is within a ratio of the fastest, from kept summaries."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.harness.errors import bad_input
from experiments.harness.figures import Figures, pick
from experiments.harness.names import OPTIMIZERS
from experiments.harness.plots import Draw, draw_lines
from experiments.harness.report import Table
from experiments.harness.study import Outcome, Posed, Setting
from experiments.studies.optimizers.options import Profile
from experiments.studies.optimizers.tables import RIVALS
from experiments.studies.optimizers.targets import fractions_within

RATIOS = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0)
MEASURES = ("steps", "seconds")
Times = dict[str, dict[str, float]]  # by task and optimizer; infinity = never


def read_times(folder: Path) -> dict[str, Times]:
    """Read steps and seconds to the target from shampoo-ablation-*.json.

    Raises:
      InputError: there is no such summary with a target.
    """
    found: dict[str, Times] = {measure: {} for measure in MEASURES}
    for path in sorted(folder.glob("shampoo-ablation-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        figures = {**record["baselines"], **record["metrics"]}
        for measure in MEASURES:
            times = _times(figures, measure)
            if times:
                found[measure][record["experiment"].partition(" ")[2]] = times
    if not found["steps"]:
        expected = "shampoo-ablation-*.json of a comparison"
        raise bad_input(folder, expected=expected, found="none")
    return found


def _times(figures: Figures, measure: str) -> dict[str, float]:
    names = [name for name in OPTIMIZERS if f"{name}/{measure}_to_target" in figures]
    values = ((name, figures[f"{name}/{measure}_to_target"]) for name in names)
    return {name: math.inf if value is None else value for name, value in values}


def pose_profile(options: Profile) -> Posed:
    """Read the kept summaries."""
    return Posed(read_times(options.results))


def measure_profile(setting: Setting[Profile]) -> Outcome:
    """Count the tasks within each ratio."""
    found: dict[str, Times] = setting.inputs
    tasks = list(found["steps"])
    names = [name for name in OPTIMIZERS if all(name in found["steps"][task] for task in tasks)]
    shares = {measure: dict(zip(names, _fractions(found[measure], names))) for measure in MEASURES}
    flat = {
        f"{name}/{measure}/{ratio:g}/share": share
        for measure, own in shares.items()
        for name, values in own.items()
        for ratio, share in zip(RATIOS, values)
    }
    baselines = {key: value for key, value in flat.items() if key.partition("/")[0] in RIVALS}
    return Outcome(
        title="Tuned optimizers over tasks",
        intro=f"Tasks: {', '.join(tasks)}.",
        protocol={"measure": "steps and seconds to where tuned AdamW ends, medians over seeds"},
        metrics={key: value for key, value in flat.items() if key not in baselines},
        baselines=baselines,
        tables=[_table(measure, own) for measure, own in shares.items()],
    )


def _fractions(times: Mapping[str, Mapping[str, float]], names: list[str]) -> list[list[float]]:
    return fractions_within([[own[name] for name in names] for own in times.values()], RATIOS)


def _table(measure: str, shares: Mapping[str, list[float]]) -> Table:
    rows: dict[str, list[Any]] = {n: [OPTIMIZERS[n], *own] for n, own in shares.items()}
    return Table(
        title=f"Share of the tasks within a ratio of the fewest {measure}",
        columns=("optimizer", *(f"{ratio:g}" for ratio in RATIOS)),
        baselines=[row for name, row in rows.items() if name in RIVALS],
        rows=[row for name, row in rows.items() if name not in RIVALS],
        note="To the validation loss at which tuned AdamW ends.",
    )


def profile_panels(figures: Figures) -> list[Draw]:
    """Draw the shares by ratio, of steps and of seconds."""
    panels = []
    for measure in MEASURES:
        curves: dict[str, list[tuple[float, float]]] = {}
        for (name, ratio), (share,) in pick(figures, f"([^/]+)/{measure}/(.+)/share").items():
            curves.setdefault(OPTIMIZERS[name], []).append((float(ratio), share))
        draw = functools.partial(draw_lines, curves=curves, title=f"By {measure}")
        x_label = f"times the fewest {measure}"
        panels.append(functools.partial(draw, x_label=x_label, y_label="share of the tasks"))
    return panels
