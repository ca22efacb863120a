"""Plots: one style for all, and the panels of a result as one PNG.

A panel is drawn by a function of the matplotlib axes, such as
`functools.partial(draw_bars, bars=bars, label="NDCG@10")`. `save_figure` lays panels out in rows of
two, puts the legend of each below it, and labels logarithmic axes with plain numbers. A name has
one colour and dash wherever it is drawn (`experiments.harness.plot_styles`). A PNG is read where
pages show it, 900 pixels wide: at that width its smallest letters are nearly 12 pixels high.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from experiments.harness.plot_styles import style_of
from experiments.harness.run_folder import read_metrics

Draw = Callable[[Axes], None]
Points = Sequence[Sequence[float]]  # rows of (x, y) or (x, y, standard error)

DPI = 200
WIDTH = 9.0  # inches: shown 900 pixels wide, a point is 1.39 pixels
COLUMNS = 2
MOST_CURVES = 6  # that a panel may have
LINES_HEIGHT, BAR_HEIGHT, FRAME_HEIGHT, LEGEND_HEIGHT = 3.1, 0.21, 0.95, 0.19  # inches
LEGEND_WIDTH = {1: 140, COLUMNS: 70}  # characters of a legend's line, by the panels beside it
NEUTRAL, MARK = "0.25", "0.45"  # of what has no name, and of reference lines
SMALL, MEDIUM, LARGE = 8.5, 9.0, 10.0  # points
RC: dict[Any, Any] = {
    "font.size": MEDIUM,
    "axes.titlesize": LARGE,
    "axes.labelsize": MEDIUM,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


def plain_number(value: float) -> str:
    """Write a number without a power of ten: "0.002", "35", "1,000,000"."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")


def three_digits(value: float) -> str:
    """Write a figure with three digits: "0.180", "48.5", "1,313"."""
    decimals = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(decimals, 0)}f}"


def read_curves(run_folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Group the lines of metrics.jsonl by stage, in the order in which the stages ran."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for line in read_metrics(run_folder / "metrics.jsonl"):
        curves.setdefault(line["stage"], []).append(line)
    return curves


def draw_lines(
    axes: Axes,
    *,
    curves: Mapping[str, Points],
    x_label: str,
    y_label: str,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
) -> None:
    """Draw named curves through their points, with error bars where points have errors."""
    for name, points in curves.items():
        x, y, *errors = np.array(sorted(map(tuple, points)), dtype=float).T
        color, dash, marker = style_of(name)
        axes.plot(x, y, label=name, color=color, linestyle=dash, marker=marker)
        if errors:
            axes.errorbar(x, y, yerr=errors[0], fmt="none", ecolor=color, linewidth=1)
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    axes.set(xlabel=x_label, ylabel=y_label, title=title)


def draw_curves(
    axes: Axes,
    *,
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    against: Literal["step", "seconds"],
    metric: str = "loss",
    label: str | None = None,
    smooth: int = 1,
    log: bool = False,
    target: float | None = None,
) -> None:
    """Draw one metric of named stages against steps or training seconds.

    With `smooth` above 1 the line is a running mean over that many points, the points faint;
    `log` makes the vertical axis logarithmic. A `target` is drawn as a line, and the first step
    or second at which each stage's metric is at least that as a mark with its number.
    """
    reached: dict[str, float] = {}
    for name, lines in curves.items():
        points = [(line[against], line[metric]) for line in lines if line.get(metric) is not None]
        if not points:
            continue
        x, y = np.array(points, dtype=float).T
        color, dash, _ = style_of(name)
        if smooth > 1:
            axes.plot(x, y, color=color, alpha=0.2, linewidth=1)
        axes.plot(x, running_mean(y, smooth), label=name, color=color, linestyle=dash)
        if target is not None and (y >= target).any():
            reached[color] = x[np.argmax(y >= target)]
    if target is not None:
        _mark_target(axes, target, reached=reached)
    if log:
        axes.set_yscale("log")
    label = label or metric
    axes.set_xlabel({"step": "step", "seconds": "training seconds (without compilation)"}[against])
    axes.set(ylabel=label, title=f"{label[0].upper()}{label[1:]} by {against.rstrip('s')}")


def _mark_target(axes: Axes, target: float, *, reached: Mapping[str, float]) -> None:
    """Draw the target, and from it down to the axis where the curve of each colour reaches it."""
    axes.axhline(target, color=MARK, linestyle=":", linewidth=1.2)
    near = {"textcoords": "offset points", "size": SMALL}
    across, up = axes.get_yaxis_transform(), axes.get_xaxis_transform()
    axes.annotate(f"target {target:g}", (0, target), (4, 3), xycoords=across, color=MARK, **near)
    low, _ = axes.get_ylim()
    axes.vlines(list(reached.values()), low, target, colors=list(reached), linewidth=1)
    axes.set_ylim(bottom=low)
    for color, x in reached.items():
        axes.annotate(f"{x:g}", (x, 0.02), (3, 0), xycoords=up, color=color, **near)


def running_mean(y: np.ndarray, width: int) -> np.ndarray:
    """Average each point of y, float [n], with up to `width - 1` before it."""
    sums = np.cumsum(np.concatenate([[0.0], y]))
    end = np.arange(1, len(y) + 1)
    start = np.maximum(0, end - width)
    return (sums[end] - sums[start]) / (end - start)


def draw_recall(
    axes: Axes,
    *,
    curves: Mapping[str, Points],
    n_items: int,
    label: str = "recall of the exact top 10",
) -> None:
    """Draw recall against the share of the items that a query scores.

    Args:
      axes: drawn into.
      curves: by name, rows of (items scored, recall).
      n_items: the number that the share is of.
      label: what the recall is of.
    """
    shares = {
        name: [(100 * x / n_items, y) for x, y, *_ in points] for name, points in curves.items()
    }
    title = f"{label[0].upper()}{label[1:]} by cost"
    x_label = f"% of the {n_items:,} items scored per query"
    draw_lines(axes, curves=shares, x_label=x_label, y_label=label, title=title, log_x=True)


def draw_bars(
    axes: Axes,
    *,
    bars: Mapping[str, Sequence[float]],
    label: str,
    title: str = "",
    neutral: bool = False,
) -> None:
    """Draw a bar per name, the first on top, with its figure.

    Args:
      axes: drawn into.
      bars: by name, (value,) or (value, standard error).
      label: of the values.
      title: of the panel.
      neutral: whether the names are none that have a colour.
    """
    names = list(bars)
    values = [bars[name][0] for name in names]
    ends = [sum(bars[name]) for name in names]
    errors = [end - value for end, value in zip(ends, values)]
    colors = [NEUTRAL if neutral else style_of(name).color for name in names]
    axes.barh(range(len(names)), values, height=0.7, color=colors)
    if any(errors):
        axes.errorbar(values, range(len(names)), xerr=errors, fmt="none", ecolor="0", linewidth=1)
    for place, (value, end) in enumerate(zip(values, ends)):
        text = three_digits(value)
        axes.annotate(
            text, (max(end, 0), place), (3, 0), textcoords="offset points", va="center", size=SMALL
        )
    _name_rows(axes, [name.strip() for name in names])
    axes.set_xlim(right=1.17 * max([*ends, 1e-12]))
    axes.set(xlabel=label, title=title)


def draw_groups(
    axes: Axes,
    *,
    groups: Mapping[str, Mapping[str, float]],
    label: str,
    title: str = "",
    log: bool = False,
    shades: bool = False,
) -> None:
    """Draw bars by group and name, the first on top, each with its figure.

    Args:
      axes: drawn into.
      groups: by group and name, the value.
      label: of the values.
      title: of the panel.
      log: whether their axis is logarithmic.
      shades: whether the names are degrees of one thing, in shades of grey.
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    height = 0.84 / len(names)
    for i, name in enumerate(names):
        places = [place for place, group in enumerate(groups.values()) if name in group]
        values = [group[name] for group in groups.values() if name in group]
        y = np.array(places) + (i - (len(names) - 1) / 2) * height
        color = str(0.7 - 0.5 * i / len(names)) if shades else style_of(name).color
        axes.barh(y, values, height=0.92 * height, color=color, label=name)
        for place, value in zip(y, values):
            at = {"textcoords": "offset points", "va": "center", "size": SMALL}
            axes.annotate(three_digits(value), (value, place), (3, 0), **at)
    if log:
        axes.set_xscale("log")
        label = f"{label} (logarithmic)"
    _name_rows(axes, list(groups))
    axes.margins(x=0.14)
    axes.set(xlabel=label, title=title)


def draw_points(
    axes: Axes,
    *,
    rows: Mapping[str, Sequence[float]],
    label: str,
    title: str = "",
    errors: Mapping[str, float] | None = None,
    reference: float | None = None,
) -> None:
    """Draw each row's values as faint dots and their mean as a dark one, the first row on top.

    Args:
      axes: drawn into.
      rows: by name, a value per seed.
      label: of the values.
      title: of the panel.
      errors: standard errors of the means, by name, where they are known.
      reference: a value that is marked by a line.
    """
    for place, (name, values) in enumerate(rows.items()):
        if len(values) > 1:
            axes.plot(values, [place] * len(values), "o", color=NEUTRAL, alpha=0.3, markersize=4)
        error = (errors or {}).get(name)
        error = error if error is not None and math.isfinite(error) else 0.0
        axes.errorbar(np.mean(values), place, xerr=error or None, fmt="D", color="0", markersize=4)
    if reference is not None:
        axes.axvline(reference, color=MARK, linewidth=1)
    _name_rows(axes, list(rows))
    axes.set(xlabel=label, title=title)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    if axes.get_xscale() == "linear":  # names leave the values little room
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if axes.get_xlim()[1] >= 1000:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value)))


def draw_figure(panels: Sequence[Draw]) -> Figure:
    """Draw panels in rows of two; a last one that is alone takes the whole width.

    Raises:
      ValueError: a panel has more than `MOST_CURVES` named curves, or one without a style.
    """
    with matplotlib.rc_context(RC):
        layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08)
        figure = Figure(figsize=(WIDTH, LINES_HEIGHT), layout=layout)
        count = math.ceil(len(panels) / COLUMNS)
        grid = figure.add_gridspec(count, COLUMNS)
        heights = [0.0] * count
        for i, draw in enumerate(panels):
            row, column = divmod(i, COLUMNS)
            beside = 1 if i == len(panels) - 1 and column == 0 else COLUMNS
            axes = figure.add_subplot(grid[row, column if beside > 1 else slice(None)])
            draw(axes)
            heights[row] = max(heights[row], _finish(figure, axes, beside=beside))
        grid.set_height_ratios(heights)
        figure.set_figheight(sum(heights))
    return figure


def save_figure(path: Path, panels: Sequence[Draw]) -> None:
    """Write panels as a PNG, whole or not at all; see `draw_figure`."""
    figure = draw_figure(panels)
    temporary = path.with_name(f".{path.name}")
    with matplotlib.rc_context(RC):
        figure.savefig(temporary, dpi=DPI, format="png", pil_kwargs={"optimize": True})
    temporary.replace(path)


def _finish(figure: Figure, axes: Axes, *, beside: int) -> float:
    """Check and label what was drawn, put the legend below; return the height in inches."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) > MOST_CURVES:
        title = axes.get_title()
        raise ValueError(
            f"panel {title!r}: expected at most {MOST_CURVES} curves, found {len(names)}"
        )
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            _label_plainly(axis)
    rows = 0
    if names:
        columns = max(1, min(len(names), LEGEND_WIDTH[beside] // (max(map(len, names)) + 9)))
        rows = math.ceil(len(names) / columns)
        below = ScaledTranslation(0, -34 / 72, figure.dpi_scale_trans)
        axes.legend(
            handles,
            names,
            ncols=columns,
            loc="upper center",
            bbox_to_anchor=(0.5, 0.0),
            bbox_transform=axes.transAxes + below,
            borderaxespad=0.0,
            handlelength=2.8,
        )
    locator = axes.yaxis.get_major_locator()
    named = len(axes.get_yticks()) if isinstance(locator, FixedLocator) else None
    own = (
        LINES_HEIGHT if named is None else FRAME_HEIGHT + BAR_HEIGHT * max(len(axes.patches), named)
    )
    return own + LEGEND_HEIGHT * rows


def _label_plainly(axis: Axis) -> None:
    """Label a logarithmic axis by plain numbers: at decades, or between them where it is short."""
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1.4 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value)))
    axis.set_minor_formatter(NullFormatter())
