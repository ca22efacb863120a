import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxtpost_jax.events.sequences import PAD, Sequences, pad_histories
from nxtpost_jax.events.splits import (
    Queries,
    by_user,
    following,
    global_time,
    hold_out_items,
    last_of_some,
    leave_last,
    leave_one_out,
    truncate_histories,
    with_targets,
)


@pytest.fixture
def sequences():
    """Users with 0 to 8 events; every event has an item and a time of its own."""
    users = np.repeat(np.arange(9), np.arange(9))
    items = np.arange(len(users))
    return Sequences.from_events(users, items, times=items * 60.0, num_users=9)


def test_leave_one_out_leaks_nothing(sequences):
    split = leave_one_out(sequences)
    assert split.test.users.tolist() == split.validation.users.tolist() == list(range(3, 9))
    for row, user in enumerate(split.test.users):
        events = sequences[user].tolist()
        assert split.test.targets[row] == events[-1]
        assert split.validation.targets[row] == events[-2]
        assert split.test.histories[row].tolist() == events[:-1]
        assert split.validation.histories[row].tolist() == events[:-2]
        assert split.train[user].tolist() == events[:-2]
    held_out = np.concatenate([split.validation.targets, split.test.targets])
    assert not np.isin(held_out, split.train.items).any()


def test_leave_one_out_keeps_short_users_in_training(sequences):
    train = leave_one_out(sequences).train
    assert [train[user].tolist() for user in range(3)] == [[], [0], [1, 2]]


@pytest.mark.parametrize("m", [2, 3])
def test_leave_last_holds_out_m_events_twice(sequences, m):
    split = leave_last(sequences, m)
    assert split.test.users.tolist() == list(range(2 * m + 1, 9))
    for queries, stop in ((split.validation, -2 * m), (split.test, -m)):
        next_items = following(sequences, queries, m=m)
        for row, user in enumerate(queries.users):
            events = sequences[user].tolist()
            assert queries.histories[row].tolist() == events[:stop]
            assert next_items[row].tolist() == (events[stop:] or events)[:m]
        assert next_items[:, 0].tolist() == queries.targets.tolist()
    assert [split.train[u].tolist() for u in range(2 * m + 1)] == [
        sequences[u].tolist() for u in range(2 * m + 1)
    ]


def test_what_follows_ends_with_the_user(sequences):
    split = by_user(sequences, validation_users=[8], test_users=[5, 1], m=2)
    assert split.test.users.tolist() == [5]
    events = sequences[5].tolist()
    assert following(sequences, split.test, m=4).tolist() == [[*events[-2:], PAD, PAD]]


def test_query_rows_do_not_depend_on_the_targets_time(sequences):
    late = sequences.times.copy()
    late[sequences.offsets[4:] - 1] += 1e6
    moved = leave_one_out(Sequences(sequences.items, sequences.offsets, late))
    rows = pad_histories(leave_one_out(sequences).test.histories, 5)
    for name, value in pad_histories(moved.test.histories, 5).items():
        np.testing.assert_array_equal(value, rows[name])


def test_by_user_holds_out_whole_users(sequences):
    split = by_user(sequences, validation_users=[8, 1, 3], test_users=np.array([5, 0]))
    assert split.validation.users.tolist() == [3, 8]
    assert split.test.users.tolist() == [5]
    assert split.test.targets.tolist() == [sequences[5][-1]]
    assert split.test.histories[0].tolist() == sequences[5][:-1].tolist()
    lengths = split.train.lengths
    assert lengths.tolist() == [0, 0, 2, 0, 4, 0, 6, 7, 0]
    held_out = np.concatenate([sequences[user] for user in (8, 1, 3, 5, 0)])
    assert not np.isin(held_out, split.train.items).any()


def test_by_user_refuses_a_user_in_both_parts(sequences):
    with pytest.raises(ValueError, match="test_users: expected no validation users, found 3"):
        by_user(sequences, validation_users=[3], test_users=[3])
    with pytest.raises(ValueError, match=r"test_users: expected ids in \[0, 9\), found 9"):
        by_user(sequences, validation_users=[3], test_users=[9])


def timed(seed, num_users=7, static=True):
    """Few distinct times, so that many events share a moment."""
    rng = np.random.default_rng(seed)
    users = rng.integers(0, num_users, 60)
    return Sequences.from_events(
        users,
        np.arange(60),
        times=rng.integers(0, 12, 60) * 1.0,
        static=np.arange(num_users)[:, None] if static else None,
        num_users=num_users,
    )


def events_of(sequences, user):
    rows = slice(sequences.offsets[user], sequences.offsets[user + 1])
    return list(zip(sequences.items[rows].tolist(), sequences.times[rows].tolist()))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["next", "each"]), st.integers(0, 3))
def test_global_time_equals_its_definition(seed, targets, min_history):
    sequences = timed(seed)
    split = global_time(
        sequences, validation_from=4, test_from=9, targets=targets, min_history=min_history
    )
    periods = {"validation": (4, 9), "test": (9, np.inf)}
    for name, (start, stop) in periods.items():
        expected = []
        for user in range(len(sequences)):
            events = events_of(sequences, user)
            inside = [event for event in events if start <= event[1] < stop]
            for item, time in inside[:1] if targets == "next" else inside:
                history = [other for other, earlier in events if earlier < time]
                if len(history) >= min_history:
                    expected.append((user, item, history))
        queries = getattr(split, name)
        found = [
            (user, target, queries.histories[row].tolist())
            for row, (user, target) in enumerate(zip(queries.users, queries.targets))
        ]
        assert sorted(found) == sorted(expected)
        np.testing.assert_array_equal(queries.histories.static[:, 0], queries.users)
    assert sorted(split.train.items) == sorted(sequences.items[sequences.times < 4])


def test_global_time_refuses_what_it_cannot_cut():
    sequences = timed(0)
    plain = Sequences(sequences.items, sequences.offsets)
    with pytest.raises(ValueError, match="sequences: expected times, found none"):
        global_time(plain, validation_from=1, test_from=2)
    with pytest.raises(ValueError, match="test_from: expected a time after validation_from=4"):
        global_time(sequences, validation_from=4, test_from=4)
    with pytest.raises(ValueError, match="targets: expected 'next' or 'each', found 'all'"):
        global_time(sequences, validation_from=4, test_from=5, targets="all")
    with pytest.raises(ValueError, match="min_history: expected at least 0, found -1"):
        global_time(sequences, validation_from=4, test_from=5, min_history=-1)
    backwards = Sequences([1, 2], [0, 2], times=[5.0, 4.0])
    with pytest.raises(ValueError, match="sequences: expected the oldest event first"):
        global_time(backwards, validation_from=4, test_from=5)
    with pytest.raises(ValueError, match="sequences: expected finite times, found"):
        global_time(Sequences([1], [0, 1], times=[np.nan]), validation_from=4, test_from=5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_held_out_items_are_known_by_nobody(seed):
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(9), rng.integers(0, 8, 9))
    sequences = Sequences.from_events(users, rng.integers(0, 12, len(users)), num_users=9)
    cold = [2, 5, 7]
    before, split = leave_one_out(sequences), hold_out_items(sequences, cold)
    assert not np.isin(split.train.items, cold).any()
    for name in ("validation", "test"):
        queries, whole = getattr(split, name), getattr(before, name)
        expected = {
            user: (target, [i for i in whole.histories[row].tolist() if i not in cold])
            for row, (user, target) in enumerate(zip(whole.users, whole.targets))
        }
        expected = {user: pair for user, pair in expected.items() if pair[1]}
        assert queries.users.tolist() == sorted(expected)
        for row, user in enumerate(queries.users):
            assert (queries.targets[row], queries.histories[row].tolist()) == expected[user]
        cold_part, warm_part = with_targets(queries, cold)
        assert np.isin(cold_part.targets, cold).all()
        assert not np.isin(warm_part.targets, cold).any()
        assert len(cold_part) + len(warm_part) == len(queries)


def test_items_are_held_out_of_any_split():
    sequences = timed(3)
    split = hold_out_items(
        sequences,
        np.arange(0, 60, 7),
        split=lambda s: global_time(s, validation_from=4, test_from=9, targets="each"),
    )
    assert len(with_targets(split.test, np.arange(0, 60, 7))[0])
    assert not np.isin(split.test.histories.items, np.arange(0, 60, 7)).any()
    with pytest.raises(ValueError, match="items: expected at least one, found none"):
        hold_out_items(sequences, [])


@pytest.mark.parametrize("n", [0, 1, 3, 100])
def test_truncated_histories_keep_the_last_events(n):
    queries = leave_one_out(timed(1)).test
    short = truncate_histories(queries, n)
    np.testing.assert_array_equal(short.targets, queries.targets)
    np.testing.assert_array_equal(short.histories.static, queries.histories.static)
    for row in range(len(queries)):
        events = events_of(queries.histories, row)
        assert events_of(short.histories, row) == events[max(len(events) - n, 0) :]
    with pytest.raises(ValueError, match="n: expected at least 0, found -1"):
        truncate_histories(queries, -1)


def test_static_features_go_with_their_users():
    sequences = timed(2)
    for split in (
        leave_one_out(sequences),
        by_user(sequences, validation_users=[0, 2], test_users=[3]),
    ):
        np.testing.assert_array_equal(split.train.static, sequences.static)
        np.testing.assert_array_equal(split.test.histories.static[:, 0], split.test.users)


def test_the_last_events_of_some_users_are_held_out_and_nobody_is_asked_twice():
    sequences = Sequences.from_events(np.repeat(np.arange(40), 5), np.arange(200) % 24)
    split = last_of_some(sequences, most=10, seed=1)
    asked = np.concatenate([split.validation.users, split.test.users])
    assert len(split.validation) == len(split.test) == 10
    assert len(set(asked.tolist())) == 20
    for queries in (split.validation, split.test):
        for user, target, history in zip(queries.users, queries.targets, queries.histories):
            np.testing.assert_array_equal([*history, target], sequences[user])
            np.testing.assert_array_equal(split.train[user], history)
    others = np.setdiff1d(np.arange(40), asked)
    assert all(len(split.train[user]) == 5 for user in others)
    short = Sequences.from_events([0, 0, 1, 2, 2], [1, 2, 3, 4, 5])
    assert len(last_of_some(short).validation) == 0
    three = last_of_some(Sequences.from_events([0, 0, 0, 1, 1, 1, 2, 2], np.arange(8)))
    assert sorted([*three.validation.users, *three.test.users]) == [0, 1]


def test_ids_of_queries_are_whole_numbers():
    queries = Queries(Sequences([1, 2], [0, 1, 2]), np.array([3.0, 4.0]), [0.0, 1.0])
    assert queries.targets.dtype == queries.users.dtype == np.int32
    for name in ("targets", "users"):
        given = {"targets": [3, 4], "users": [0, 1]} | {name: [0.5, 1.0]}
        with pytest.raises(ValueError, match=f"^{name}: expected whole numbers"):
            Queries(Sequences([1, 2], [0, 1, 2]), **given)
