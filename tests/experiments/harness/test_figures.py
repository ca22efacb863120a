"""Figures by name: picked from a summary, put in curves, errors beside their values."""

import numpy as np
import pytest

from experiments.harness.figures import (
    by_position,
    figures_of,
    over_seeds_and_users,
    pick,
    seed_figures,
)
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


@pytest.mark.parametrize("of_seed", [0.0, 0.3])
def test_the_error_over_seeds_and_users_is_that_of_the_mean(of_seed):
    seeds, users, rng = 4, 60, np.random.default_rng(0)
    of_user, rest = 1.0, 2.0
    true = of_seed**2 / seeds + of_user**2 / users + rest**2 / (seeds * users)
    found = []
    for _ in range(3000):
        values = 5 + of_seed * rng.normal(size=(seeds, 1)) + of_user * rng.normal(size=(1, users))
        found.append(over_seeds_and_users(values + rest * rng.normal(size=(seeds, users))))
    means, errors = np.array(found).T
    assert np.var(means) == pytest.approx(true, rel=0.1)
    # A negative estimate of the seeds' part is cut off: with no such part the error is too large.
    assert np.mean(errors**2) == pytest.approx(true, rel=0.1 if of_seed else 0.35)
    assert np.mean(errors**2) > 0.95 * true


def test_the_error_of_one_seed_is_that_over_users_and_of_one_user_unknown():
    values = np.array([[0.0, 1.0, 1.0, 0.0]])
    mean, error = over_seeds_and_users(values)
    assert mean == 0.5 and error == pytest.approx(values.std(ddof=1) / 2)
    assert np.isnan(over_seeds_and_users(values[:, :1])[1])


def test_users_who_differ_alike_from_every_seed_leave_the_error_of_the_seeds():
    values = np.array([[1.0], [2.0], [6.0]]) + np.zeros((1, 5))
    assert over_seeds_and_users(values) == (3.0, pytest.approx(np.std([1, 2, 6], ddof=1) / 3**0.5))
