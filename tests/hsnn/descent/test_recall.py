"""The arithmetic of the estimate, against draws and a distribution that is known."""

import math

import numpy as np

from hsnn_jax.descent.recall import Evidence, Tail, above, affordable, expected_recall, tolerance_of

PLAIN = np.array([0.0, 1.0, 0.0, 1.0, 1.0])  # no correction
NONE = np.zeros(0)
TAIL = Tail(np.array([-0.5, -1.0, -0.2]), np.ones(3), PLAIN, NONE, NONE, NONE, NONE)


def known(*, missed, found, allowed, gaps, slope=0.0, seen=None):
    one = {"missed": missed, "slope": slope, "seen": found if seen is None else seen}
    one |= {"found": found, "allowed": allowed, "unseen": allowed - found, "gaps": gaps}
    return Evidence(**{name: np.asarray(value)[None] for name, value in one.items()})


def test_a_probability_is_poissons():
    """With the same number missed above every rank, rank j counts where at most k - j are."""
    k, missed = 10, 3.0
    found = expected_recall(
        PLAIN, known(missed=missed, found=k, allowed=1000, gaps=np.zeros(k)), k=k, xp=np
    )
    at_most = np.cumsum([math.exp(-missed) * missed**i / math.factorial(i) for i in range(k)])
    np.testing.assert_allclose(found, at_most.mean(), atol=0.005)


def test_few_allowed_items_are_counted_not_guessed():
    one = known(missed=50.0, found=3, allowed=8, gaps=np.zeros(10))
    np.testing.assert_allclose(expected_recall(PLAIN, one, k=10, xp=np), 3 / 8)


def test_more_missed_is_less_recall_and_higher_scores_are_safer():
    def recall(**what):
        one = {"missed": 2.0, "found": 10, "allowed": 999, "gaps": np.linspace(1, 0, 10)} | what
        return expected_recall(PLAIN, known(**one), k=10, xp=np)[0]

    assert recall(missed=0.1) > recall(missed=1.0) > recall(missed=10.0)
    assert recall(slope=-5.0) > recall(slope=-1.0) > recall(slope=0.0)


def test_a_tail_falls_from_one():
    scores, spread, left = np.zeros((1, 3)), np.ones((1, 3)), np.array([[10, 0, 4]])
    given = {"scores": scores, "spread": spread, "left": left, "xp": np}
    low, high = (above(TAIL, np.array([at]), **given)[0] for at in (-50.0, 2.0))
    np.testing.assert_allclose(low[0], left[0])  # capped: no more than there are
    np.testing.assert_allclose(high[0], left[0] * math.exp(-0.5 - 2 - 0.8))


def test_a_smaller_tolerance_affords_more_nodes():
    rng = np.random.default_rng(0)
    scores, counts = rng.normal(size=(1, 3)) * 2, np.array([5, 7, 9])
    given = {
        "k": 3,
        "unit": np.ones((1, 1)),
        "scores": scores,
        "left": counts[None, :],
        "counts": counts,
        "xp": np,
    }
    budgets = affordable(TAIL, np.array([1e-9, 0.05, 0.3, 2.0]), **given)
    assert budgets[0] == 21 and budgets[-1] <= 9 and (np.diff(budgets) <= 0).all()


def test_a_tolerance_is_read_between_those_that_were_tried():
    tail = TAIL._replace(tolerances=np.array([0.01, 0.1]), reached=np.array([0.99, 0.9]))
    assert 0.01 < tolerance_of(tail, 0.8) < 0.1
    np.testing.assert_allclose(
        tolerance_of(tail, 0.6), 0.1, rtol=1e-6
    )  # a quarter of what is missed
