"""Tables and reports: figures as they are, baselines always."""

import functools
import io

import numpy as np
import pytest
from rich.console import Console

from experiments.harness.options import Options
from experiments.harness.plots import draw_curves, read_curves
from experiments.harness.progress import show_progress
from experiments.harness.report import (
    Table,
    format_cell,
    markdown_table,
    print_table,
    write_report,
)
from experiments.harness.run_folder import open_run

TABLE = Table(
    title="Retrieval",
    columns=("method", "ndcg@10", "items"),
    baselines=[("popularity", 0.0312, 3416)],
    rows=[("with | bar", 0.123456, None)],
    note="All items ranked.",
)


def test_cells():
    values = ["x", 12345, 0.123456, 12345.678, None, float("nan"), np.int64(5), 0.0]
    assert [format_cell(value) for value in values] == [
        "x",
        "12,345",
        "0.1235",
        "12,346",
        "–",
        "–",
        "5",
        "0",
    ]


def test_markdown_puts_baselines_first_and_escapes():
    assert markdown_table(TABLE).splitlines() == [
        "### Retrieval",
        "",
        "| method | ndcg@10 | items |",
        "| --- | ---: | ---: |",
        "| *popularity* | 0.0312 | 3,416 |",
        "| with \\| bar | 0.1235 | – |",
        "",
        "All items ranked.",
    ]


def test_terminal_table_shows_every_figure():
    file = io.StringIO()
    print_table(TABLE, console=Console(file=file, width=80))
    for text in ("Retrieval", "popularity", "0.0312", "0.1235", "All items ranked."):
        assert text in file.getvalue()


WIDE = Table(
    title="Test, all 3,706 items ranked",
    columns=(
        *("model", "HR@10", "NDCG@10", "±", "recall of exact 10", "items scored", "FLOPs"),
        *("queries/s", "p50 ms", "p99 ms", "NDCG@10 of seeds"),
    ),
    baselines=[("popularity of 7 days", 0.03841, 0.01861, 0.00123, *[None] * 7)],
    rows=[
        (
            *("  MoNN S over NxtPost's vectors, HSNN index, dot routes, trained for the beam",),
            *(0.3033, 0.1729, 0.00312, 0.9471, 541.25, 1234567, 1422.7, 0.9512, 1.2345),
            "0.1729 to 0.1733",
        )
    ],
    note="A note that is long enough to be wrapped where the terminal has 80 columns, not cut.",
)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_cell_is_cut_and_no_figure_wraps(width):
    file = io.StringIO()
    print_table(WIDE, console=Console(file=file, width=width))
    shown = file.getvalue()
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    for row in (*WIDE.baselines, *WIDE.rows):
        assert all(format_cell(cell) in shown for cell in row[1:])
        assert all(word in shown for word in row[0].split())
    for column in WIDE.columns:
        assert all(word in shown for word in column.split())
    assert shown.count("(continued)") == {80: 2, 100: 1, 120: 1}[width]


def test_a_row_is_in_every_part_that_it_has_figures_for():
    file = io.StringIO()
    print_table(WIDE, console=Console(file=file, width=80))
    assert file.getvalue().count("popularity of 7 days") == 1
    assert file.getvalue().count("MoNN S over") == 3


def test_brackets_in_cells_are_no_markup():
    table = Table(title="T", columns=("", "x"), baselines=[("[a]", "[b]")], rows=[])
    file = io.StringIO()
    print_table(table, console=Console(file=file, width=80))
    assert "[a]" in file.getvalue() and "[b]" in file.getvalue()


def test_table_needs_baselines_and_full_rows():
    with pytest.raises(ValueError, match="table 'T': expected baselines, found none"):
        Table(title="T", columns=("a",), baselines=[], rows=[("x",)])
    with pytest.raises(ValueError, match=r"table 'T': expected 2 cells, found \['x'\]"):
        Table(title="T", columns=("a", "b"), baselines=[("x",)], rows=[])


def test_report_holds_command_protocol_tables_and_plot(tmp_path):
    run = open_run("toy", Options(out=tmp_path / "run"), arguments=("--seed", "0"))
    for step in (1, 2):
        run.log("AdamW", step, loss=1.0 / step, seconds=0.1 * step)
    summary = run.write_summary(
        protocol={"split": "leave one out"}, metrics={}, baselines={}, seeds=[0]
    )
    panels = [
        functools.partial(draw_curves, curves=read_curves(run.folder), against=against)
        for against in ("step", "seconds")
    ]
    write_report(
        run, title="Toy", intro="Two steps.", summary=summary, tables=[TABLE], panels=panels
    )
    text = (run.folder / "report.md").read_text()
    for part in ("# Toy", "--seed 0", "Two steps.", "- split: leave one out", "popularity"):
        assert part in text
    assert "![Toy](report.png)" in text
    assert (run.folder / "report.png").read_bytes().startswith(b"\x89PNG")
    assert not list(run.folder.glob(".*"))


def test_progress_prints_few_lines_where_there_is_no_terminal():
    file = io.StringIO()
    console = Console(file=file, force_terminal=False)
    with show_progress("adamw", total=50, console=console) as show:
        for step in range(50):
            show(step + 1, f"loss {step}")
    assert file.getvalue() == "adamw  50/50  loss 49\n"


def test_progress_draws_a_bar_on_a_terminal():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80)
    with show_progress("adamw", total=5, console=console) as show:
        show(5, "loss 1")
    assert "adamw" in file.getvalue() and "5/5" in file.getvalue()
