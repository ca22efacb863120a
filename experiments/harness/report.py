"""Tables for the terminal and for report.md, and the plots of a run as one PNG.

A table always carries its baselines: a figure without one says little. A plot is a row of panels,
each drawn by a function of the matplotlib axes, such as
`functools.partial(draw_curves, curves=curves, against="seconds")`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rich.box
import rich.markup
import rich.table
import rich.text
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from experiments.harness.run_folder import Run, read_metrics, write_atomically

Cell = str | float | int | None
Draw = Callable[[Axes], None]
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito
LINE_STYLES = ("-", "--", "-.", ":")
COLUMN_GAP = 3  # spaces between two columns of a table on the terminal
LEGEND_INSIDE = 6  # lines that a legend inside the axes may have


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of figures under named columns, the baselines first."""

    title: str
    columns: Sequence[str]
    baselines: Sequence[Sequence[Cell]]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        if not self.baselines:
            raise ValueError(f"table {self.title!r}: expected baselines, found none")
        for row in (*self.baselines, *self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: expected {len(self.columns)} cells, found {list(row)}"
                )


def format_cell(value: Cell) -> str:
    """Write a cell: text as it is, integers with separators, four digits, "–" for nothing."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def signed(difference: float, error: float) -> str:
    """Write a difference and its standard error as a cell."""
    return f"{difference:+.4f} ± {error:.4f}"


def print_table(table: Table, *, console: Console | None = None) -> None:
    """Print a table to the terminal, in parts of fewer columns where it is too wide.

    No cell is cut and no figure wraps; headers and the first column do.
    """
    console = console or _wide_console()
    label_width = max(16, min(_widest(table, 0) + 2, console.width * 2 // 5))
    for i, part in enumerate(_parts(table, width=console.width - label_width)):
        shown = rich.table.Table(
            title=table.title if i == 0 else f"{table.title} (continued)",
            box=rich.box.SIMPLE_HEAD,
            title_justify="left",
            show_edge=False,
            pad_edge=False,
        )
        for column in (0, *part):
            width = label_width if column == 0 else _widest(table, column)
            header = rich.markup.escape("\n".join(textwrap.wrap(table.columns[column], width)))
            shown.add_column(header, justify="right" if column else "left", no_wrap=True)
        for row in _with_figures(table.baselines, part):
            shown.add_row(*_cells(row, part, label_width), style="dim")
        shown.add_section()
        for row in _with_figures(table.rows, part):
            shown.add_row(*_cells(row, part, label_width))
        console.print(shown)
    if table.note:
        console.print(rich.text.Text(table.note, style="italic dim"))


def _parts(table: Table, *, width: int) -> list[list[int]]:
    """Deal the columns behind the first to as many tables as their figures need."""
    parts: list[list[int]] = [[]]
    used = 0
    for column in range(1, len(table.columns)):
        own = _widest(table, column) + COLUMN_GAP
        if parts[-1] and used + own > width:
            parts.append([])
            used = 0
        parts[-1].append(column)
        used += own
    return parts


def _with_figures(rows: Sequence[Sequence[Cell]], part: Sequence[int]) -> list[Sequence[Cell]]:
    """Leave out the rows that have nothing in a part's columns."""
    return [row for row in rows if any(row[column] is not None for column in part)]


def _widest(table: Table, column: int) -> int:
    """Measure a column: its longest cell, or the longest word of its header."""
    cells = [format_cell(row[column]) for row in (*table.baselines, *table.rows)]
    words = table.columns[column].split() or [""]
    return max(map(len, (*cells, *words)))


def _cells(row: Sequence[Cell], part: Sequence[int], label_width: int) -> list[str]:
    return [
        _wrapped(format_cell(row[0]), label_width),
        *(rich.markup.escape(format_cell(row[column])) for column in part),
    ]


def _wrapped(text: str, width: int) -> str:
    """Break a text at its spaces; the lines that follow are indented further than the first."""
    indent = " " * (len(text) - len(text.lstrip()))
    lines = textwrap.wrap(text.lstrip(), width - len(indent) - 2)
    return rich.markup.escape("\n".join(indent + "  " * bool(i) + x for i, x in enumerate(lines)))


def _wide_console() -> Console:
    """Cut no column where nobody says how wide the output is (a pipe, a log file)."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def markdown_table(table: Table) -> str:
    """Write a table as Markdown, baselines in italics."""
    baselines = [
        [f"*{format_cell(row[0])}*", *map(format_cell, row[1:])] for row in table.baselines
    ]
    lines = [
        table.columns,
        ["---", *["---:"] * (len(table.columns) - 1)],
        *baselines,
        *[[format_cell(cell) for cell in row] for row in table.rows],
    ]
    body = "\n".join(f"| {' | '.join(_escape(cell) for cell in line)} |" for line in lines)
    note = f"\n\n{table.note}" if table.note else ""
    return f"### {table.title}\n\n{body}{note}\n"


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|")


def read_curves(run_folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Group the lines of metrics.jsonl by stage, in the order in which the stages ran."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for line in read_metrics(run_folder / "metrics.jsonl"):
        curves.setdefault(line["stage"], []).append(line)
    return curves


def draw_curves(
    axes: Axes,
    *,
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    against: Literal["step", "seconds"],
    metric: str = "loss",
    label: str | None = None,
    smooth: int = 1,
    log: bool = False,
) -> None:
    """Draw one metric of several stages against steps or training seconds.

    With `smooth` above 1 the line is a running mean over that many points, the points faint;
    `log` makes the vertical axis logarithmic.
    """
    for i, (stage, lines) in enumerate(curves.items()):
        points = [(line[against], line[metric]) for line in lines if line.get(metric) is not None]
        if not points:
            continue
        x, y = np.array(points, dtype=float).T
        style: dict[str, Any] = {"color": COLORS[i % len(COLORS)]}
        style |= {"linestyle": LINE_STYLES[i % len(LINE_STYLES)]}
        if smooth > 1:
            axes.plot(x, y, color=style["color"], alpha=0.2, linewidth=1)
        axes.plot(x, _running_mean(y, smooth), label=stage, linewidth=1.8, **style)
    if log:
        axes.set_yscale("log")
    axes.set_xlabel({"step": "step", "seconds": "training seconds (without compilation)"}[against])
    axes.set_ylabel(label or metric)
    axes.set_title(f"{label or metric} by {'step' if against == 'step' else 'second'}")
    finish_axes(axes)


def _running_mean(y: np.ndarray, width: int) -> np.ndarray:
    """Average each point with up to `width - 1` before it."""
    sums = np.cumsum(np.concatenate([[0.0], y]))
    end = np.arange(1, len(y) + 1)
    start = np.maximum(0, end - width)
    return (sums[end] - sums[start]) / (end - start)


def draw_recall(
    axes: Axes,
    *,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    n_items: int,
    label: str = "recall of the exact top 10",
) -> None:
    """Draw recall against items scored a query; a dotted line marks all items."""
    for i, (name, points) in enumerate(curves.items()):
        x, y = np.array(sorted(points), dtype=float).T
        style: dict[str, Any] = {"color": COLORS[i % len(COLORS)]}
        style |= {"linestyle": LINE_STYLES[i % len(LINE_STYLES)]}
        axes.plot(x, y, label=name, marker="o", markersize=4, linewidth=1.8, **style)
    axes.axvline(n_items, color="0.4", linestyle=":", label=f"all {n_items:,} items")
    axes.set_xscale("log")
    axes.set_ylim(0.0, 1.03)
    axes.set_xlabel("items scored a query")
    axes.set_ylabel(label)
    axes.set_title(f"{label} by cost")
    finish_axes(axes)


def line_style(i: int) -> dict[str, str]:
    """Style the i-th of many lines: all colours first, then the next dashes."""
    return {
        "color": COLORS[i % len(COLORS)],
        "linestyle": LINE_STYLES[i // len(COLORS) % len(LINE_STYLES)],
    }


def finish_axes(axes: Axes) -> None:
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if _lines_below(axes):
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    elif axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def _lines_below(axes: Axes) -> int:
    """Count the lines of a legend that is too long to lie inside the axes, else 0."""
    lines = len(axes.get_legend_handles_labels()[0])
    return lines if lines > LEGEND_INSIDE else 0


def save_figure(path: Path, panels: Sequence[Draw]) -> None:
    """Draw the panels side by side into a PNG; long legends lie below them, or one for all."""
    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    for axes, draw in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes)
    lines = max(map(_lines_below, figure.axes))
    if lines and len(panels) > 1:
        lines = _share_legend(figure) or lines
    figure.set_figheight(3.6 + 0.19 * lines)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=130, format="png")
    temporary.replace(path)


def _share_legend(figure: Figure) -> int:
    """Put one legend below panels that have the same lines; return its height in lines, or 0."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if any(axes.get_legend_handles_labels()[1] != labels for axes in figure.axes):
        return 0
    for axes in figure.axes:
        if legend := axes.get_legend():
            legend.remove()
    columns = len(figure.axes)
    figure.legend(
        handles, labels, ncols=columns, frameon=False, fontsize=8, loc="outside lower center"
    )
    return math.ceil(len(labels) / columns)


def write_report(
    run: Run,
    *,
    title: str,
    intro: str,
    summary: Mapping[str, Any],
    tables: Sequence[Table],
    panels: Sequence[Draw] = (),
) -> None:
    """Write report.md and, where there are panels, report.png into the run folder."""
    parts = [f"# {title}\n", f"`{summary['command']}`\n", f"{intro}\n"]
    if summary["protocol"]:
        parts.append(_bullets("Protocol", summary["protocol"]))
    parts += [markdown_table(table) for table in tables]
    if panels:
        save_figure(run.folder / "report.png", panels)
        parts.append(f"![{title}](report.png)\n")
    setting = {"wall seconds": summary["wall_seconds"], "seeds": summary["seeds"]}
    parts.append(_bullets("Setting", setting | summary["device"] | summary["versions"]))
    write_atomically(run.folder / "report.md", "\n".join(parts))


def _bullets(title: str, values: Mapping[str, Any]) -> str:
    lines = (
        f"- {name}: {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in values.items()
    )
    return f"### {title}\n\n" + "\n".join(lines) + "\n"
