"""Points of trials: equal parts of every range, the published value in the middle."""

import numpy as np
import pytest

from experiments.studies.optimizers.spaces import (
    RATE_WIDTH,
    SPACES,
    beyond,
    cube_points,
    is_on_edge,
    point_of,
)

MIDDLE = np.full(5, 0.5)


@pytest.mark.parametrize("trials", [2, 6, 8])
def test_every_trial_has_a_part_of_each_range_to_itself(trials):
    points = cube_points(trials)
    expected = np.repeat(((np.arange(trials) + 0.5) / trials)[:, None], 5, axis=1)
    np.testing.assert_allclose(np.sort(points, axis=0), expected)
    np.testing.assert_array_equal(points, cube_points(trials))


@pytest.mark.parametrize("name", SPACES)
def test_the_middle_is_what_was_published(name):
    point, space = point_of(name, MIDDLE), SPACES[name]
    assert point.rate == pytest.approx(space.rate)
    assert 1 - point.b1 == pytest.approx(space.b1)
    assert point.weight_decay == pytest.approx(space.weight_decay)
    assert point.other_rate == pytest.approx(SPACES["adamw"].rate)


@pytest.mark.parametrize("name", SPACES)
def test_all_ranges_of_rates_are_equally_wide(name):
    low, high = (point_of(name, np.full(5, end)) for end in (0.0, 1.0))
    assert high.rate / low.rate == pytest.approx(RATE_WIDTH)
    assert high.weight_decay / low.weight_decay == pytest.approx(100)
    assert (1 - high.b1) / (1 - low.b1) == pytest.approx(10)
    assert (low.b2, high.b2) == pytest.approx((0.999, 0.9))


@pytest.mark.parametrize(("best", "rates"), [(0, [-0.1, -0.3]), (3, [1.1, 1.3])])
def test_trials_go_on_beyond_the_nearer_end(best, rates):
    points = np.stack([[rate, *np.linspace(0, 1, 4) + rate] for rate in (0.1, 0.3, 0.7, 0.9)])
    more = beyond(points, best, count=2)
    np.testing.assert_allclose(more[:, 0], rates)
    np.testing.assert_array_equal(more[:, 1:], points[[best, best], 1:])


def test_the_outermost_rates_are_the_edge():
    points = np.array([[0.5] * 5, [0.1] * 5, [0.9] * 5])
    assert [is_on_edge(points, best) for best in range(3)] == [False, True, True]
