"""Rivals without training, against numpy."""

import numpy as np
import pytest

from experiments.retrieval.untrained_rivals import KINDS, best_unseen, scored_parts, untrained


@pytest.fixture(scope="module")
def asked(examples):
    return examples.next_liked(1)[:30]


def test_popularity_recommends_the_most_liked_unseen_items(examples, asked):
    counts = np.bincount(examples.items[examples.liked(0)], minlength=examples.num_items)
    found = best_unseen(untrained("popularity", examples), examples, asked, k=5)
    for ids, seen in zip(found, examples.seen(asked)):
        free = np.setdiff1d(np.arange(examples.num_items), seen)
        assert sorted(counts[ids]) == sorted(np.sort(counts[free])[-5:])
        assert not np.isin(ids, seen).any()


def test_markov_reads_the_latest_liked_item_most(examples, asked):
    """A table of transitions by hand; gaps of 1 only."""
    scores = untrained("Markov", examples, max_gap=1)
    (_, values), *_ = scored_parts(scores, examples, asked)
    items, users = (x[examples.liked(0)] for x in (examples.items, examples.users))
    n = examples.num_items
    counts = np.zeros((n, n))
    own = users[1:] == users[:-1]
    np.add.at(counts, (items[:-1][own], items[1:][own]), 1)
    table = counts / (counts.sum(1) + 5)[:, None]
    table /= (np.bincount(items, minlength=n) + 1.0)[None, :] ** 0.3
    for row, event in enumerate(asked):
        latest = examples.liked_before(np.array([event]), length=10)[0]
        latest = latest[latest >= 0]
        expected = (0.7 ** np.arange(len(latest))) @ table[latest]
        np.testing.assert_allclose(values[row], expected, rtol=1e-5, atol=1e-7)


def test_item_knn_finds_items_of_the_same_users(examples, asked):
    found = best_unseen(untrained("item-KNN", examples), examples, asked, k=10)
    popular = best_unseen(untrained("popularity", examples), examples, asked, k=10)
    own = examples.users[asked] % 5  # users like films of one genre out of five
    of_own = [np.mean(ids % 5 == own[:, None]) for ids in (found, popular)]
    assert of_own[0] > of_own[1] + 0.1


def test_a_name_that_is_none_is_refused(examples):
    with pytest.raises(ValueError, match=f"name: expected one of {KINDS[0]}, .*, found 'x'"):
        untrained("x", examples)
