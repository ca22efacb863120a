"""The frontier harness: recall by user, interpolation at equal cost, paired differences."""

import numpy as np
import pytest

from hsnn_jax.cost_curves import (
    Found,
    Measured,
    at_equal,
    measure,
    paired_difference,
    recall,
    recall_by_user,
)


class Prefix:
    """Finds the items below the budget, in order."""

    name = "prefix"

    def build(self):
        pass

    def search(self, requests, k, budget):
        ids = np.full((len(requests), k), -1)
        ids[:, : min(k, budget)] = np.arange(min(k, budget))[None, :]
        return Found(ids, float(budget), 10.0 * budget)


def test_recall_by_user_by_hand():
    wanted = np.array([[1, 2], [3, -1], [-1, -1]])
    found = recall_by_user(np.array([[2, 9], [3, 4], [-1, 6]]), wanted)
    np.testing.assert_array_equal(found, [0.5, 1.0, np.nan])


def test_measure_keeps_users_apart_and_counts_costs():
    exact = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])
    truth = np.array([[0, -1], [3, 9]])
    points = measure(Prefix(), [None, None], k=4, budgets=[2, 4], exact=exact, truth=truth)
    assert [p.items_scored for p in points] == [2, 4]
    assert [p.flops for p in points] == [20, 40]
    np.testing.assert_array_equal(points[0].recall, [0.5, 0.5])
    np.testing.assert_array_equal(points[0].truth, [1.0, 0.0])
    np.testing.assert_array_equal(points[1].truth, [1.0, 0.5])
    assert all(p.queries_per_second > 0 for p in points)


@pytest.mark.parametrize(
    ("traced", "warm", "calls"), [(False, False, 6), (True, False, 4), (True, True, 3)]
)
def test_a_searcher_is_warmed_as_often_as_it_compiles(traced, warm, calls):
    class Counting(Prefix):
        traced_budget = traced
        count = 0

        def search(self, requests, k, budget):
            self.count += 1
            return super().search(requests, k, budget)

    searcher = Counting()
    exact = np.array([[0, 1, 2, 3]])
    points = measure(searcher, [None], k=4, budgets=[1, 2, 4], exact=exact, warm=warm)
    assert searcher.count == calls
    assert [p.budget for p in points] == [1, 2, 4]


def _point(cost, recall):
    return Measured(0, cost, 2 * cost, 1.0, np.asarray(recall), None)


def test_interpolation_is_linear_in_the_logarithm_of_the_cost_and_by_user():
    points = [_point(100, [0.8, 1.0]), _point(1, [0.0, 0.5])]
    middle = at_equal(points, cost="items_scored", value=10, of="recall")
    np.testing.assert_allclose(middle, [0.4, 0.75])
    np.testing.assert_allclose(at_equal(points, cost="flops", value=20, of="recall"), middle)
    for value, row in ((1, 1), (100, 0)):
        ends = at_equal(points, cost="items_scored", value=value, of="recall")
        np.testing.assert_allclose(ends, points[row].recall)


@pytest.mark.parametrize("value", [0.5, 101])
def test_nothing_is_extrapolated(value):
    points = [_point(1, [0.0]), _point(100, [1.0])]
    assert at_equal(points, cost="items_scored", value=value, of="recall") is None


def test_paired_difference_has_the_error_of_the_mean():
    rng = np.random.default_rng(0)
    common = rng.normal(size=2000) * 10  # shared by both: it must not count
    one, other = common + rng.normal(1.0, 0.5, 2000), common
    mean, error = paired_difference(one, other)
    assert mean == pytest.approx(1.0, abs=0.05)
    assert error == pytest.approx(0.5 / np.sqrt(2000), rel=0.15)
    assert paired_difference(one, other) == (mean, error)


def test_paired_difference_leaves_out_users_without_truth():
    mean, error = paired_difference([1.0, np.nan, 1.0, 0.0], [0.0, 1.0, 0.0, np.nan])
    assert (mean, error) == (1.0, 0.0)


def test_recall_by_hand():
    wanted = np.array([[1, 2], [3, -1], [-1, -1]])
    assert recall(np.array([[2, 9], [3, 4], [5, 6]]), wanted) == 0.75
    with pytest.raises(ValueError, match="wanted: expected at least one id, found -1 alone"):
        recall(np.zeros((1, 2), int), np.full((1, 2), -1))
