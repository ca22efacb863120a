from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.serving.backfill import fill_from_similar_users, fill_with_popular

N = 12


def drawn(seed, num_users, longest=6):
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(num_users), rng.integers(0, longest, num_users))
    return Sequences.from_events(
        users,
        rng.integers(0, N, len(users)),
        times=rng.random(len(users)),
        actions=rng.integers(0, 3, len(users)),
        static=rng.integers(-1, 3, (num_users, 2)),
        num_users=num_users,
    )


def ranked(items):
    """Most common first, equals by id."""
    return [item for item, _ in sorted(Counter(items).items(), key=lambda p: (-p[1], p[0]))]


def check_filled(filled, histories, expected_fills):
    """Fills stand before the own events, which stay what they were."""
    np.testing.assert_array_equal(filled.static, histories.static)
    for row, fills in enumerate(expected_fills):
        assert filled[row].tolist() == [*fills, *histories[row].tolist()]
        own = slice(histories.offsets[row], histories.offsets[row + 1])
        rows = slice(filled.offsets[row], filled.offsets[row + 1])
        for name in ("times", "actions"):
            before = getattr(histories, name)[own].tolist()
            assert getattr(filled, name)[rows].tolist()[len(fills) :] == before
        assert (np.diff(filled.times[rows]) >= 0).all()
        gaps = np.diff(filled.times[rows])[: len(fills)]
        assert not gaps.any()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 8))
def test_popular_items_fill_up_from_the_front(seed, n):
    train, histories = drawn(seed, 9, 8), drawn(seed + 1, 5)
    train = Sequences(train.items % N, train.offsets, train.times + 0, train.actions)
    if not len(train.items):
        return
    popular = ranked(train.items.tolist())
    fills = []
    for row in range(len(histories)):
        own = histories[row].tolist()
        missing = max(n - len(own), 0)
        fills.append([item for item in popular if item not in own][:missing][::-1])
    check_filled(fill_with_popular(histories, train, n=n), histories, fills)


def similar(asked, train, others, content):
    """Users in order of likeness, and whether any is alike, one pair at a time."""
    if content is None:
        pairs = [zip(asked[1], train.static[user]) for user in others]
        scores = [sum(a == b and a >= 0 for a, b in pair) for pair in pairs]
    else:
        unit = content / np.linalg.norm(content, axis=1, keepdims=True)
        mean = unit[asked[0]].sum(axis=0) if asked[0] else np.zeros(3)
        means = [unit[train[user]].sum(axis=0) for user in others]
        lengths = [max(np.linalg.norm(mean) * np.linalg.norm(other), 1e-12) for other in means]
        scores = [mean @ other / length for other, length in zip(means, lengths)]
    order = sorted(range(len(others)), key=lambda i: (-scores[i], -len(train[others[i]]), i))
    return [others[i] for i in order], any(scores)


@pytest.mark.parametrize("with_content", [True, False])
def test_similar_users_items_equal_their_definition(with_content):
    train, histories = drawn(3, 9, 8), drawn(4, 7, 4)
    content = np.random.default_rng(0).normal(size=(N, 3)) if with_content else None
    others = np.flatnonzero(train.lengths > 0).tolist()
    popular = ranked(train.items.tolist())
    fills = []
    for row in range(len(histories)):
        own = histories[row].tolist()
        users, alike = similar((own, histories.static[row]), train, others, content)
        common = ranked([i for u in users[:2] for i in train[u]]) if alike else []
        order = common + [item for item in popular if item not in common]
        fills.append([i for i in order if i not in own][: max(6 - len(own), 0)][::-1])
    filled = fill_from_similar_users(histories, train, n=6, content=content, num_neighbours=2)
    check_filled(filled, histories, fills)
    assert filled.items.tolist() != fill_with_popular(histories, train, n=6).items.tolist()


def test_a_user_without_events_gets_the_last_time_of_training():
    train = Sequences.from_events([0, 0, 1], [4, 5, 5], times=[1.0, 2, 9], actions=[2, 2, 0])
    filled = fill_with_popular(
        Sequences(np.zeros(0), [0, 0], times=np.zeros(0), actions=np.zeros(0)), train, n=2
    )
    assert filled.items.tolist() == [4, 5]
    assert filled.times.tolist() == [9, 9]
    assert filled.actions.tolist() == [2, 2]


def test_what_cannot_be_filled_is_refused():
    train = Sequences.from_events([0, 0], [4, 5])
    empty = Sequences(np.zeros(0), [0, 0])
    with pytest.raises(ValueError, match="n: expected at least 0, found -1"):
        fill_with_popular(empty, train, n=-1)
    with pytest.raises(ValueError, match="train: expected events, found none"):
        fill_with_popular(empty, empty, n=2)
    with pytest.raises(ValueError, match="train: expected times, which the histories have"):
        fill_with_popular(Sequences([1], [0, 1], times=[0.0]), train, n=2)
    with pytest.raises(ValueError, match="content: expected it where histories or train have no"):
        fill_from_similar_users(empty, train, n=2)
    with pytest.raises(ValueError, match="num_neighbours: expected at least 1, found 0"):
        fill_from_similar_users(empty, train, n=2, content=np.ones((6, 2)), num_neighbours=0)
