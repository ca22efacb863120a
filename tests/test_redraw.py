"""Kept plots: each is drawn again from its JSON, by the rules of style that hold for all."""

import importlib.util
import json
import re

import matplotlib.colors
import matplotlib.image
import pytest
from matplotlib.text import Text

from experiments.harness.plots import DPI, MOST_CURVES, WIDTH, draw_figure
from tests.pages import ROOT

RESULTS = ROOT / "docs" / "results"
KEPT = sorted(path.stem for path in RESULTS.glob("*.json"))


def load_redraw():
    spec = importlib.util.spec_from_file_location("redraw", ROOT / "docs" / "redraw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


redraw = load_redraw()


def listed():
    """The names that the page of results lists as drawn from JSON, and those left as they were."""
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    section = page.partition("## Plots")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([\w, -]+?) \|", section, re.M)
    drawn = {name for row in rows if row != "drawn from JSON" for name in row.split(", ")}
    return drawn, {name for name in KEPT if name in section} - drawn


def panels_of(name):
    return redraw.panels_of(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))


def looks(figure):
    """How every named curve and bar of a figure is drawn, by panel."""
    for axes in figure.axes:
        handles, names = axes.get_legend_handles_labels()
        yield {
            name: (handle.get_color(), str(handle.get_linestyle()))
            if hasattr(handle, "get_color")
            else (matplotlib.colors.to_hex(handle.patches[0].get_facecolor()), "bar")
            for handle, name in zip(handles, names)
        }


def test_the_page_lists_what_is_drawn_again():
    drawn, left = listed()
    assert drawn | left == set(KEPT)
    assert drawn == {name for name in KEPT if panels_of(name)}


@pytest.mark.parametrize("name", sorted(listed()[0]))
def test_a_kept_plot_is_drawn_again_by_the_rules(name):
    figure = draw_figure(panels_of(name))
    sizes = [t.get_fontsize() for t in figure.findobj(Text) if t.get_text()]
    assert min(sizes) * DPI / 72 * 900 / (WIDTH * DPI) >= 9
    for panel in looks(figure):
        assert len(panel) <= MOST_CURVES
        assert len(set(panel.values())) == len(panel), "two names look alike"
    for axes in figure.axes:
        assert axes.get_xlabel() and (axes.get_ylabel() or len(axes.get_yticklabels()))
    kept = matplotlib.image.imread(RESULTS / f"{name}.png").shape
    assert kept[1] == WIDTH * DPI
    assert kept[0] == pytest.approx(figure.get_figheight() * DPI, abs=2), "redraw it"


def test_a_name_looks_the_same_in_all_plots():
    colors = {}
    for name in listed()[0]:
        for panel in looks(draw_figure(panels_of(name))):
            for curve, (color, _) in panel.items():
                colors.setdefault(curve.removeprefix("NxtPost, "), set()).add(color)
    shown = {curve: found for curve, found in colors.items() if "devices" not in curve}
    assert {"AdamW", "Shampoo", "HSNN LTI", "skip-3 Markov"} <= set(shown)
    assert all(len(found) == 1 for found in shown.values()), shown


def test_one_result_is_drawn_by_its_name(tmp_path, monkeypatch, capsys):
    (tmp_path / "hsnn-scale.json").write_text((RESULTS / "hsnn-scale.json").read_text())
    monkeypatch.setattr(redraw, "RESULTS", tmp_path)
    redraw.main(["hsnn-scale"])
    assert capsys.readouterr().out == "hsnn-scale: drawn\n"
    assert {path.name for path in tmp_path.iterdir()} == {"hsnn-scale.json", "hsnn-scale.png"}
