"""What a task of `experiments.hsnn` hands to its summary and report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.harness.report import Draw, Table


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """Figures and how they are shown.

    Attributes:
      title, intro: of the report.
      protocol: how the figures came about.
      metrics, baselines: by name, for summary.json.
      tables, panels: of the report.
    """

    title: str
    intro: str
    protocol: Mapping[str, Any]
    metrics: Mapping[str, float]
    baselines: Mapping[str, float]
    tables: Sequence[Table]
    panels: Sequence[Draw]


def over_seeds(outcomes: Mapping[int, Outcome], *, most: int = 60) -> Outcome:
    """Join the outcomes of several seeds: the first one's tables, and every figure's range.

    Figures are named SEED/NAME. The table of ranges leaves out what no baseline is compared by:
    it has the figures that end in a recall, up to `most` of them; summary.json has all.
    """
    first = next(iter(outcomes.values()))
    if len(outcomes) == 1:
        return first
    metrics = {f"{s}/{name}": v for s, o in outcomes.items() for name, v in o.metrics.items()}
    baselines = {f"{s}/{name}": v for s, o in outcomes.items() for name, v in o.baselines.items()}

    def row(name: str, of: str) -> list:
        values = [getattr(o, of)[name] for o in outcomes.values() if name in getattr(o, of)]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return [name, float(np.mean(values)), spread, min(values), max(values), len(values)]

    names = [name for name in first.metrics if "=" in name and "recall" in name]
    names = names or [name for name in first.metrics if name not in first.baselines]
    table = Table(
        title=f"Over {len(outcomes)} seeds",
        columns=("figure", "mean", "standard deviation", "least", "most", "seeds"),
        baselines=[row(name, "baselines") for name in first.baselines],
        rows=[row(name, "metrics") for name in names[:most]],
        note=f"The tables below are of seed {next(iter(outcomes))}.",
    )
    tables = [table, *first.tables]
    return dataclasses.replace(first, metrics=metrics, baselines=baselines, tables=tables)
