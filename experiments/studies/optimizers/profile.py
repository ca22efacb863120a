"""Over all kept tasks: parts of AdamW's steps and seconds, and how often each is near the first."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.harness.errors import bad_input
from experiments.harness.figures import Figures, pick
from experiments.harness.names import OPTIMIZERS
from experiments.harness.plots import Draw, draw_lines
from experiments.harness.report import Table
from experiments.harness.study import Outcome, Posed, Setting
from experiments.studies.optimizers.comparison import BASELINE
from experiments.studies.optimizers.options import Profile
from experiments.studies.optimizers.panels import curves_of
from experiments.studies.optimizers.tables import RIVALS, table_of
from experiments.studies.optimizers.targets import fractions_within, steps_to_target

RATIOS = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0)
MEASURES = ("steps", "seconds")


class Share(NamedTuple):
    """The part of tuned AdamW's budget after which another is where it ends; infinity = never.

    Attributes:
      steps: median over seeds.
      seconds: by the median of the steps.
      least, most: of the seeds, in steps.
    """

    steps: float
    seconds: float
    least: float
    most: float

    @property
    def cell(self) -> str:
        """Steps with the band of the seeds, and seconds."""
        steps, seconds, least, most = (f"{x:.2f}" if math.isfinite(x) else "never" for x in self)
        band = "" if least == most else f" ({least} to {most})"
        return f"{steps}{band}" + (f", {seconds}" if math.isfinite(self.seconds) else "")


def read_kept(folder: Path) -> dict[str, Figures]:
    """Read the figures of all shampoo-ablation-*.json that have a target, by task.

    Raises:
      InputError: there is none.
    """
    found: dict[str, Figures] = {}
    for path in sorted(folder.glob("shampoo-ablation-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        figures = {**record["baselines"], **record["metrics"]}
        if f"{BASELINE}/target" in figures:
            found[record["experiment"].partition(" ")[2]] = figures
    if not found:
        expected = "shampoo-ablation-*.json of a comparison"
        raise bad_input(folder, expected=expected, found="none")
    return found


def times_of(figures: Figures, measure: str) -> dict[str, float]:
    """Return what each optimizer takes to the target; infinity = never."""
    names = [name for name in OPTIMIZERS if f"{name}/{measure}_to_target" in figures]
    values = ((name, figures[f"{name}/{measure}_to_target"]) for name in names)
    return {name: math.inf if value is None else value for name, value in values}


def shares_of(figures: Figures) -> dict[str, Share]:
    """Return each optimizer's part of AdamW's steps and seconds; the seeds' are of the curves.

    AdamW's own is 1, of all seeds: the target is the median of where they end.
    """
    target, curves = figures[f"{BASELINE}/target"], curves_of(figures)
    assert target is not None  # AdamW's own runs end at one
    steps, seconds = (times_of(figures, measure) for measure in MEASURES)
    found = {BASELINE: Share(1.0, 1.0, 1.0, 1.0)}
    for name in set(steps) - {BASELINE}:
        at, losses = curves[name]
        reached = [steps_to_target(at.tolist(), own, target=target) for own in losses.tolist()]
        parts = np.array([steps[name], min(reached), max(reached)]) / steps[BASELINE]
        part, least, most = parts.tolist()
        found[name] = Share(part, seconds[name] / seconds[BASELINE], least, most)
    return found


def pose_profile(options: Profile) -> Posed:
    """Read the kept summaries."""
    return Posed(read_kept(options.results))


def measure_profile(setting: Setting[Profile]) -> Outcome:
    """Lay out each task's shares, and count the tasks within each ratio."""
    kept: dict[str, Figures] = setting.inputs
    shares = {task: shares_of(figures) for task, figures in kept.items()}
    names = [name for name in OPTIMIZERS if all(name in own for own in shares.values())]
    within = {measure: dict(zip(names, _fractions(kept, measure, names))) for measure in MEASURES}
    flat: dict[str, float | None] = {
        f"{name}/{measure}/{ratio:g}/share": share
        for measure, own in within.items()
        for name, values in own.items()
        for ratio, share in zip(RATIOS, values)
    }
    for task, own in shares.items():
        for name in names:
            parts = own[name]._asdict().items()
            flat |= {f"{name}/{task}/{part}_of_adamw": x for part, x in parts if x < math.inf}
    baselines = {key: value for key, value in flat.items() if key.partition("/")[0] in RIVALS}
    return Outcome(
        title="Tuned optimizers over tasks",
        intro=f"Tasks: {', '.join(kept)}.",
        protocol={"measure": "steps and seconds to where tuned AdamW ends, medians over seeds"},
        metrics={key: value for key, value in flat.items() if key not in baselines},
        baselines=baselines,
        tables=[
            _shares_table(shares, names),
            *(_within_table(measure, own) for measure, own in within.items()),
        ],
    )


def _shares_table(shares: Mapping[str, Mapping[str, Share]], names: list[str]) -> Table:
    return table_of(
        names,
        "Share of tuned AdamW's steps, and of its seconds, to where it ends",
        tuple(shares),
        row=lambda name: [own[name].cell for own in shares.values()],
        note="Medians over seeds, in brackets the first and the last seed; seconds are the median "
        "of the steps times the time of one.",
    )


def _fractions(kept: Mapping[str, Figures], measure: str, names: list[str]) -> list[list[float]]:
    times = [times_of(figures, measure) for figures in kept.values()]
    return fractions_within([[own[name] for name in names] for own in times], RATIOS)


def _within_table(measure: str, shares: Mapping[str, list[float]]) -> Table:
    return table_of(
        list(shares),
        f"Share of the tasks within a ratio of the fewest {measure}",
        tuple(f"{ratio:g}" for ratio in RATIOS),
        row=lambda name: shares[name],
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
