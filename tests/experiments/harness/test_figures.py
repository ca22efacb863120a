"""Figures by name: picked from a summary, put in curves, errors beside their values."""

import numpy as np

from experiments.harness.figures import by_position, figures_of, pick, seed_figures
from nxtpost_jax import Metrics

FIGURES = {"a/0/recall": 0.1, "a/1/recall": 0.3, "b/0/recall": 0.5, "b/1/recall": None, "a/x": 9.0}


def test_picked_figures_are_listed_by_the_groups_of_the_pattern():
    assert pick(FIGURES, r"(.+)/\d+/recall") == {("a",): [0.1, 0.3], ("b",): [0.5]}
    assert pick(FIGURES, r"(.+)/(\d+)/recall")[("a", "1")] == [0.3]
    assert pick(FIGURES, "recall") == {}
    assert pick({"ndcg@10": 1.0}, r"(?:(.+)/)?ndcg@10") == {("",): [1.0]}


def test_curves_are_read_with_and_without_seeds():
    def metrics(ndcg):
        return Metrics({"ndcg@10": ndcg}, {"ndcg@10": ndcg / 10}, np.array([1]))

    seeds = {"model": [[metrics(0.1), metrics(0.3)], [metrics(0.3), metrics(0.5)]]}
    figures = seed_figures(seeds, (4, 5), (0, 10))
    figures |= figures_of({"popularity": [metrics(0.2), metrics(0.2)]}, (0, 10))
    curves = by_position(figures, "ndcg@10")
    np.testing.assert_allclose(curves["model"], [(0, 0.2, 0.02), (10, 0.4, 0.04)])
    np.testing.assert_allclose(curves["popularity"], [(0, 0.2, 0.02), (10, 0.2, 0.02)])
    without = {name: value for name, value in figures.items() if not name.endswith("_se")}
    np.testing.assert_allclose(by_position(without, "ndcg@10")["model"], [(0, 0.2), (10, 0.4)])
