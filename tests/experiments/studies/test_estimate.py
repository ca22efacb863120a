"""What the estimates are held against, on answers whose figures are known."""

import numpy as np
import pytest

from experiments.harness.errors import InputError
from experiments.studies.estimate import (
    Answers,
    EstimateConfig,
    allowed_rows,
    figures_of,
    true_recall,
)


def test_a_constant_gains_nothing_and_the_truth_everything():
    recall = np.repeat([0.0, 1.0], 50)
    constant = figures_of(Answers(np.full(100, 0.5), recall))
    assert constant["gain"] == pytest.approx(0) and constant["overclaims"] == 0
    true = figures_of(Answers(recall, recall))
    assert true["gain"] == 1 and true["decile"] == 0


def test_claims_that_are_too_high_are_counted_and_the_widest_decile_is_named():
    estimate = np.linspace(0, 1, 100)
    recall = estimate.copy()
    recall[-4:] = 0.5
    figures = figures_of(Answers(estimate, recall))
    assert figures["overclaims"] == pytest.approx(0.04)
    assert figures["decile"] == pytest.approx((estimate[-4:] - 0.5).sum() / 10)


def test_ties_with_the_last_exact_score_count_as_found():
    exact = np.array([[3.0, 2.0, 2.0, 1.0]])
    assert true_recall(np.array([[3.0, 2.0]]), exact, k=2) == 1
    assert true_recall(np.array([[2.0, 2.0]]), exact, k=2) == 0.5  # one place is the 3.0's
    assert true_recall(np.array([[3.0, 1.0]]), exact, k=2) == 0.5
    assert true_recall(np.array([[3.0, -np.inf, -np.inf]]), exact[:, :1], k=3) == 1


def test_filters_go_with_or_against_what_is_liked():
    likes, found = np.random.default_rng(0).normal(size=5000), {}
    for kind in ("random", "correlated", "opposed"):
        rows = allowed_rows(kind, 0.1, likes=likes, rng=np.random.default_rng(1))
        assert len(np.unique(rows)) == 500
        found[kind] = likes[rows].mean()
    assert found["opposed"] < -0.5 and abs(found["random"]) < 0.2 and found["correlated"] > 0.5
    assert allowed_rows("none", 1.0, likes=likes, rng=np.random.default_rng(1)) is None


def test_scorers_are_known_ones():
    with pytest.raises(InputError, match=r"--estimate.scorers: expected some of"):
        EstimateConfig(scorers=("cosine",))
