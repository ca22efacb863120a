"""Lists of neighbours against a count by hand."""

import numpy as np
import pytest

from experiments.tasks.neighbours import (
    FOLDS,
    NEIGHBOURS,
    SMOOTHING,
    WINDOW,
    companion_lists,
    follower_lists,
    latest_first,
)


def follower_scores(examples, *, without, window=WINDOW):
    """Count(j, then i within the window) / sqrt(count(i) + 10) over liked training events."""
    chosen = (examples.part == 0) & (examples.labels == 1)
    users, items = examples.users[chosen], examples.items[chosen]
    counts = np.zeros((examples.num_items,) * 2)
    for user in np.unique(users[users % FOLDS != without]):
        own = items[users == user]
        for place, item in enumerate(own):
            for later in own[place + 1 : place + 1 + window]:
                counts[item, later] += item != later
    return counts / np.sqrt(np.bincount(items, minlength=examples.num_items) + SMOOTHING)


def assert_best(lists, scores):
    """Check that each item's list holds the items with its best positive scores, in order."""
    for own, found in zip(scores, lists, strict=True):
        known = found[found >= 0]
        assert len(set(known.tolist())) == len(known) == min(NEIGHBOURS, (own > 0).sum())
        np.testing.assert_allclose(own[known], np.sort(own)[::-1][: len(known)], rtol=1e-5)


@pytest.mark.parametrize("fold", [0, 3, -1])
def test_followers_are_those_counted_without_the_users_of_a_fold(examples, fold):
    assert_best(examples.followers[fold], follower_scores(examples, without=fold))
    chosen = examples.liked(0)
    events = examples.users[chosen], examples.items[chosen]
    near = follower_lists(*events, num_items=examples.num_items, window=2)
    assert_best(near[fold], follower_scores(examples, without=fold, window=2))


@pytest.mark.parametrize("fold", [1, -1])
def test_companions_are_items_of_the_same_users(fold):
    taken = np.random.default_rng(0).random((30, 70)) < 0.15
    users, items = np.nonzero(taken)
    sizes = {"num_users": 30, "num_items": 70}
    lists = companion_lists(users, items, **sizes)
    assert lists.shape == (FOLDS + 1, 70, NEIGHBOURS)
    if fold >= 0:
        taken[fold::FOLDS] = False
    else:
        np.testing.assert_array_equal(lists[-1:], companion_lists(users, items, **sizes, folds=0))
    degrees = [np.maximum(taken.sum(axis=axis, keepdims=True), 1) for axis in (0, 1)]
    weights = taken / np.sqrt(degrees[0] * degrees[1])
    scores = weights.T @ weights
    np.fill_diagonal(scores, 0)
    assert_best(lists[fold], scores)


def test_the_last_come_first_and_no_event_at_all_is_no_error():
    found = latest_first(np.array([7, 8, 9]), np.array([0, 2]), ends=np.array([2, 2]), length=3)
    assert found.tolist() == [[8, 7, -1], [-1, -1, -1]]
    none = np.array([], int)
    found = latest_first(none, np.array([0, 0]), ends=np.array([0, 0]), length=2)
    assert found.tolist() == [[-1, -1], [-1, -1]]
    assert found.dtype == np.int32
