"""Plots of what a search keeps of a scorer's gain, at which share of its operations."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from matplotlib.axes import Axes

from experiments.harness.figures import Figures, pick
from experiments.harness.plots import MARK, Draw, Points, draw_lines
from experiments.retrieval.kept_gain import NAMES, ROUTED_NODES, TWO_TOWER

SEARCH = f"HSNN {ROUTED_NODES}, learned routes"  # by which scorers are compared
OTHERS = (
    "HSNN k-means",
    "HSNN LTI",
    SEARCH,
    "HSNN LTI, two tower routes",
    "HSNN k-means, two tower's learned routes",
    "two tower re-ranked",
)


def kept_panels(figures: Figures) -> list[Draw]:
    """Draw the gain over the two tower by operations: of all scorers, and of the best's searches.

    A curve ends at exact search, 100 % of the scorer's operations.
    """
    whole = {
        name: own[0] for (name,), own in pick(figures, "(.+), exact/100%/over_two_tower").items()
    }
    scorers = [name for name in NAMES.values() if name in whole and name != NAMES[TWO_TOWER]]
    if not scorers:
        return []
    best = max(scorers, key=whole.__getitem__)
    compared = {name: _points(figures, name, SEARCH) for name in scorers}
    searched = {search: _points(figures, best, search) for search in OTHERS}
    return [
        functools.partial(draw_gain, curves=curves, title=title)
        for curves, title in (
            (compared, f"Through {SEARCH}"),
            (searched, f"{best} through each search"),
        )
        if len(curves) > 1
    ]


def _points(figures: Figures, scorer: str, search: str) -> list[tuple[float, float, float]]:
    """Return (% of the scorer's exact operations, gain, its standard error), exact search last."""
    shares = [share for (share,) in pick(figures, f"{scorer}, {search}/(.+)/flops_share")]
    keys = [f"{scorer}, {search}/{share}" for share in shares]
    return [
        (
            100 * (figures[f"{key}/flops_share"] or 0.0),
            figures[f"{key}/over_two_tower"] or 0.0,
            figures[f"{key}/over_two_tower_se"] or 0.0,
        )
        for key in [*keys, f"{scorer}, exact/100%"]
    ]


def draw_gain(axes: Axes, *, curves: Mapping[str, Points], title: str) -> None:
    """Draw gains against operations, the two tower's exact search at zero."""
    draw_lines(
        axes,
        curves=curves,
        x_label="% of the scorer's exact operations (logarithmic)",
        y_label="recall above the exact two tower's",
        title=title,
        log_x=True,
    )
    axes.axhline(0.0, color=MARK, linewidth=1)
