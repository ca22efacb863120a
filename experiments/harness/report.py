"""Tables for the terminal and for report.md, which also shows the plots of a run.

A table always carries its baselines: a figure without one says little.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rich.box
import rich.markup
import rich.table
import rich.text
from rich.console import Console

from experiments.harness.plots import Draw, save_figure
from experiments.harness.run_folder import Run, write_atomically

Cell = str | float | int | None
COLUMN_GAP = 3  # spaces between two columns of a table on the terminal


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
