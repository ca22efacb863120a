"""Plots: what is drawn where, at most six curves, and letters that can be read at 900 pixels."""

import functools

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments.harness.plots import (
    DPI,
    draw_bars,
    draw_curves,
    draw_figure,
    draw_groups,
    draw_lines,
    draw_points,
    draw_recall,
    plain_number,
    save_figure,
    three_digits,
)

SHOWN = 900  # pixels: the width at which pages show a PNG
LEAST_LETTERS = 9  # pixels
NXTPOST = "NxtPost, Shampoo"


def letters(figure):
    """The height of every text of a figure, in pixels where it is shown."""
    width = figure.get_figwidth() * DPI
    return {
        text.get_text(): text.get_fontsize() * DPI / 72 * SHOWN / width
        for text in figure.findobj(Text)
        if text.get_text()
    }


def axes():
    return Figure().subplots()


def points(*names):
    return {name: [(1, 0.5), (10, 0.7 + 0.01 * i)] for i, name in enumerate(names)}


def lines(**columns):
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def test_curves_leave_out_gaps_and_smooth_over_the_past():
    own = lines(step=(1, 2, 3), seconds=(0.1, 0.2, 0.3), loss=(4.0, None, 2.0))
    ax = axes()
    draw_curves(ax, curves={"AdamW": own, "Shampoo": [{"step": 1}]}, against="seconds", smooth=2)
    raw, smoothed = ax.lines
    np.testing.assert_allclose(raw.get_xydata(), [[0.1, 4.0], [0.3, 2.0]])
    np.testing.assert_allclose(smoothed.get_ydata(), [4.0, 3.0])
    assert ax.get_xlabel() == "training seconds (without compilation)"
    assert ax.get_ylabel() == "loss"
    assert ax.get_legend_handles_labels()[1] == ["AdamW"]


def test_a_target_is_marked_where_it_is_first_reached():
    own = lines(step=(4, 8, 12), accuracy=(0.5, 0.98, 0.99))
    slow = lines(step=(4, 8, 12), accuracy=(0.1, 0.6, 0.7))
    ax = axes()
    draw_curves(
        ax,
        curves={"Shampoo": own, "AdamW": slow},
        against="step",
        metric="accuracy",
        target=0.97,
    )
    assert [text.get_text() for text in ax.texts] == ["target 0.97", "8"]
    assert ax.texts[1].xy[0] == 8
    low, high = ax.get_ylim()
    assert 0 < low < 0.1 and high > 0.99  # the whole of both curves


def test_recall_is_drawn_by_the_share_of_the_items():
    ax = axes()
    draw_recall(ax, curves={"dot": [(50, 0.9), (10, 0.5)]}, n_items=200)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[5, 0.5], [25, 0.9]])
    assert (ax.get_xlabel(), ax.get_xscale()) == ("% of the 200 items scored per query", "log")


def test_bars_stand_from_the_top_with_their_figures_and_errors():
    ax = axes()
    draw_bars(ax, bars={"popularity": (0.02,), NXTPOST: (0.18, 0.01)}, label="NDCG@10")
    assert [bar.get_width() for bar in ax.patches] == [0.02, 0.18]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["popularity", NXTPOST]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert [text.get_text() for text in ax.texts] == ["0.0200", "0.180"]
    assert ax.get_xlim()[1] > 0.19


def test_groups_share_the_colour_of_a_name():
    ax = axes()
    draw_groups(ax, groups={"a": {"AdamW": 1.0, "Shampoo": 2.0}, "b": {"AdamW": 3.0}}, label="ms")
    adamw, shampoo, again = ax.patches[0], ax.patches[2], ax.patches[1]
    assert adamw.get_facecolor() == again.get_facecolor() != shampoo.get_facecolor()
    assert adamw.get_y() < shampoo.get_y() < again.get_y()


def test_points_show_every_seed_and_the_mean():
    ax = axes()
    draw_points(ax, rows={"x": [1.0, 3.0], "y": [5.0]}, errors={"x": 0.5}, label="", reference=0.0)
    drawn = [np.asarray(line.get_xdata()).tolist() for line in ax.lines]
    assert drawn == [[1.0, 3.0], [2.0], [5.0], [0, 0]]


def test_a_panel_has_at_most_six_curves():
    names = ("dot", "MoNN S", "MoNN M", "MoNN L", "MoNN XL", "MoL 8x4", "IVF")
    draw = functools.partial(draw_lines, x_label="x", y_label="y", title="Many")
    six = draw_figure([functools.partial(draw, curves=points(*names[:6]))])
    assert len(six.axes[0].get_legend().get_texts()) == 6
    with pytest.raises(ValueError, match="panel 'Many': expected at most 6 curves, found 7"):
        draw_figure([functools.partial(draw, curves=points(*names))])


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_panels_stand_in_rows_of_two_and_can_be_read(count, tmp_path):
    draw = functools.partial(draw_lines, x_label="items", y_label="ms", title="T", log_x=True)
    panels = [functools.partial(draw, curves=points("HSNN", "IVF"))] * count
    figure = draw_figure(panels)
    assert min(letters(figure).values()) >= LEAST_LETTERS
    places = [ax.get_subplotspec() for ax in figure.axes]
    assert [(p.rowspan.start, len(p.colspan)) for p in places] == [
        (i // 2, 2 if i == count - 1 and i % 2 == 0 else 1) for i in range(count)
    ]
    save_figure(tmp_path / "plot.png", panels)
    height, width, _ = matplotlib.image.imread(tmp_path / "plot.png").shape
    assert width == 1800
    assert height == pytest.approx(figure.get_figheight() * DPI, abs=2)
    assert b"pHYs\x00\x00\x1e\xc2" in (tmp_path / "plot.png").read_bytes()  # 7,874 a metre: 200 dpi
    assert not list(tmp_path.glob(".*"))


def test_legends_lie_below_their_panels():
    names = ("HSNN k-means, two tower's learned routes", "HSNN LTI", "IVF", "HNSW")
    draw = functools.partial(draw_lines, x_label="x", y_label="y")
    figure = draw_figure([functools.partial(draw, curves=points(*names))] * 2)
    figure.set_dpi(DPI)
    figure.draw_without_rendering()
    left, right = figure.axes
    for ax in (left, right):
        legend = ax.get_legend().get_window_extent()
        assert legend.y1 < ax.xaxis.label.get_window_extent().y0
        assert legend.y0 >= 0
        assert legend.x0 >= 0 and legend.x1 <= figure.bbox.width
    assert left.get_legend().get_window_extent().x1 < right.get_legend().get_window_extent().x0


def test_logarithmic_axes_have_plain_numbers():
    curves = {"HSNN": [(10_000, 0.1), (10_000_000, 3.0)]}
    draw = functools.partial(draw_lines, x_label="x", y_label="y", log_x=True, log_y=True)
    figure = draw_figure([functools.partial(draw, curves=curves)])
    figure.draw_without_rendering()
    (ax,) = figure.axes
    labels = [t.get_text() for t in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    assert {"10,000", "1,000,000", "0.1", "1"} <= set(labels)
    assert not any("$" in label for label in labels)


def test_numbers_are_written_without_powers():
    assert [plain_number(x) for x in (0.002, 3.0, 0.0, 12.5, 1e7)] == [
        *("0.002", "3", "0", "12.5", "10,000,000")
    ]
    assert [three_digits(x) for x in (0.14996, 0.0177, 48.5, 250.2, 1313.4, 0.0, 3.2e-5)] == [
        *("0.150", "0.0177", "48.5", "250", "1,313", "0", "0.0000320")
    ]
