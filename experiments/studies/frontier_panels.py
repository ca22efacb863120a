"""Plots of task frontier: recall against cost, of the searchers that say most, means over seeds."""

from __future__ import annotations

import functools

import numpy as np

from experiments.harness.figures import Figures, pick
from experiments.harness.plots import Draw, Points, draw_lines
from experiments.tasks.graph_towers import K

SEEDS = r"(?:\d+/)?"  # before the names of more than one seed
BY_DOT = ("IVF", "HNSW", "HSNN k-means", "HSNN LTI")
BY_MONN = (
    "IVF re-ranked",
    "HSNN LTI re-ranked",
    "HSNN k-means",
    "HSNN LTI",
    "HSNN k-means, dot routes",
    "HSNN LTI, dot routes",
)
FOUND = (*BY_DOT, "IVF re-ranked", "HSNN LTI re-ranked")  # the last two by a MoNN


def frontier_panels(figures: Figures) -> list[Draw]:
    """Draw what each scorer's searches keep by share of the items, and what users find by FLOPs."""
    scorers = [name for (name,) in pick(figures, f"{SEEDS}([^,/]+)/gain")]
    panels = []
    for scorer in scorers:
        shown = BY_DOT if scorer == "dot" else BY_MONN
        curves = {
            name: [(100 * share, y) for share, y in _points(figures, f"{scorer}, {name}", "share")]
            for name in shown
        }
        panels.append(
            functools.partial(
                draw_lines,
                curves={name: points for name, points in curves.items() if points},
                x_label="% of the items scored per query",
                y_label=f"recall of the exact top {K}",
                title=f"{scorer}: what a search keeps",
                log_x=True,
            )
        )
    # The first MoNN answers the same users as the inner product, larger ones some of them.
    monn = scorers[min(1, len(scorers) - 1)]
    named = {name: f"{'dot' if name in BY_DOT else monn}, {name}" for name in FOUND}
    found = {n: _points(figures, n, "flops", of=f"recall@{K}") for n in named.values()}
    found = {n: [(x / 1e6, y) for x, y in points] for n, points in found.items() if points}
    panels.append(
        functools.partial(
            draw_lines,
            curves=found,
            x_label="millions of FLOPs per query",
            y_label=f"recall@{K} of held-out items",
            title="What users find",
            log_x=True,
        )
    )
    return panels


def _points(figures: Figures, name: str, cost: str, *, of: str = "recall") -> Points:
    """Return (cost, recall) by budget, means over the seeds that have the budget."""
    costs = pick(figures, rf"{SEEDS}{name}/(\d+)/{cost}")
    recalls = pick(figures, rf"{SEEDS}{name}/(\d+)/{of}")
    return [(float(np.mean(costs[key])), float(np.mean(recalls[key]))) for key in costs]
