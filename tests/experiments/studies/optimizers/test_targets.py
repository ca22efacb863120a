"""Steps to a target and what few trials find, against hand-made cases and enumeration."""

import itertools
import math

import numpy as np
import pytest

from experiments.studies.optimizers.targets import (
    expected_best,
    fractions_within,
    median_of,
    or_chance,
    steps_to_target,
)

STEPS = (10, 20, 30, 40, 50)


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ((5, 4, 3, 2, 1), 50),  # 3, 2, 1: the first three whose median is 2
        ((2, 2, 9, 9, 9), 30),  # a median forgives one of three
        ((1, 9, 9, 1, 1), 50),  # a single low evaluation is none
        ((9, 1, 9, 9, 9), math.inf),
        ((1, math.nan, 1, 9, 9), 30),
        ((math.nan,) * 5, math.inf),
        ((2.0, 2.0, 2.0, 9, 9), 30),  # at the target is enough
    ],
)
def test_the_median_of_three_evaluations_must_be_there(losses, step):
    assert steps_to_target(STEPS, losses, target=2.0) == step


def test_fewer_than_three_evaluations_reach_nothing():
    assert steps_to_target((10, 20), (1.0, 1.0), target=2.0) == math.inf


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_expected_best_is_the_mean_over_all_subsets(count):
    losses = [0.7, 0.2, 0.9, 0.2, 0.5, 2.3]
    subsets = [min(subset) for subset in itertools.combinations(losses, count)]
    assert expected_best(losses, count) == pytest.approx(np.mean(subsets), rel=1e-12)


def test_there_must_be_as_many_trials():
    with pytest.raises(ValueError, match="count: expected 1 to 2, found 3"):
        expected_best([1.0, 2.0], 3)


def test_what_diverged_counts_as_chance():
    losses = [or_chance(loss, 2.0) for loss in (1.5, 7.0, math.inf, math.nan)]
    assert losses == [1.5, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("values", "median"),
    [((3, 1, 2), 2), ((1, 2, math.inf), 2), ((1, math.inf, math.inf), None), ((1, math.inf), None)],
)
def test_never_is_worse_than_any_number(values, median):
    assert median_of(values) == median


def test_a_profile_counts_tasks_within_a_ratio_of_the_fastest():
    times = [[10, 15, math.inf], [40, 20, 20], [math.inf, math.inf, math.inf]]
    profile = fractions_within(times, [1, 1.5, 2])
    np.testing.assert_allclose(profile, np.array([[1, 1, 2], [1, 2, 2], [1, 1, 1]]) / 3)
