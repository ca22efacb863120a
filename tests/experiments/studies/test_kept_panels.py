"""Plots of the kept gain: a curve ends at exact search; without a MoNN there is none."""

import numpy as np

from experiments.harness.plots import draw_figure
from experiments.studies.kept_panels import OTHERS, SEARCH, kept_panels


def figures_of(scorer, gain, searches):
    points = {f"{scorer}, exact/100%": (1.0, gain)}
    points |= {
        f"{scorer}, {name}/{s}%": (s / 100, gain * s / 10) for name in searches for s in (5, 8)
    }
    return {
        f"{key}/{figure}": value
        for key, (cost, own) in points.items()
        for figure, value in (
            ("flops_share", cost),
            ("over_two_tower", own),
            ("over_two_tower_se", 0.01),
        )
    }


def test_curves_end_at_the_whole_gain():
    figures = figures_of("MoNN S", 0.1, OTHERS) | figures_of("MoNN M", 0.3, OTHERS)
    compared, searched = draw_figure(kept_panels(figures)).axes
    assert compared.get_title() == f"Through {SEARCH}"
    assert compared.get_legend_handles_labels()[1] == ["MoNN S", "MoNN M"]
    assert searched.get_title() == "MoNN M through each search"
    assert searched.get_legend_handles_labels()[1] == list(OTHERS)
    for line in searched.lines[: len(OTHERS)]:
        np.testing.assert_allclose(line.get_xydata(), [[5, 0.15], [8, 0.24], [100, 0.3]])


def test_the_two_tower_alone_has_no_gain():
    assert kept_panels(figures_of("two tower", 0.0, ("HSNN k-means",))) == []
