"""Which searchers the frontier's plots show, of one seed or several, with or without rivals."""

import numpy as np

from experiments.harness.plots import draw_figure
from experiments.studies.frontier_panels import BY_MONN, frontier_panels


def figures_of(searchers, *, prefix=""):
    found = {f"{prefix}{scorer}/gain": 0.0 for scorer in ("dot", "MoNN S", "MoNN L")}
    for name in searchers:
        for budget in (100, 200):
            key = f"{prefix}{name}/{budget}"
            found |= {f"{key}/share": budget / 1000, f"{key}/flops": 1e6 * budget}
            found |= {f"{key}/recall": 0.5, f"{key}/recall@20": 0.1}
    return found


def shown(figures):
    axes = draw_figure(frontier_panels(figures)).axes
    return {ax.get_title(): ax.get_legend_handles_labels()[1] for ax in axes}


def test_a_panel_per_scorer_and_what_users_find_by_the_model_that_answers_all():
    searchers = ["dot, HSNN LTI", "dot, HSNN k-means"]
    for monn in ("MoNN S", "MoNN L"):
        searchers += [f"{monn}, {name}" for name in (*BY_MONN, "HSNN k-means re-ranked")]
    found = shown(figures_of(searchers))
    assert list(found) == [
        *(f"{scorer}: what a search keeps" for scorer in ("dot", "MoNN S", "MoNN L")),
        "What users find",
    ]
    assert found["dot: what a search keeps"] == ["HSNN k-means", "HSNN LTI"]
    assert found["MoNN L: what a search keeps"] == list(BY_MONN)
    assert found["What users find"][-1] == "MoNN S, HSNN LTI re-ranked"


def test_points_are_means_over_seeds():
    searchers = ("dot, HSNN LTI",)
    figures = figures_of(searchers, prefix="0/") | figures_of(searchers, prefix="1/")
    figures["1/dot, HSNN LTI/200/recall"] = 0.7
    (line,) = draw_figure(frontier_panels(figures)).axes[0].lines
    np.testing.assert_allclose(line.get_xydata(), [[10, 0.5], [20, 0.6]])
