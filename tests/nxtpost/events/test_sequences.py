import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxtpost_jax.events.sequences import PAD, Sequences, gather_rows, pad_histories, window_index


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=40),
    st.sampled_from(["times", "order"]),
)
def test_equal_times_keep_their_input_order(events, key):
    users = np.array([user for user, _ in events], int)
    stamps = np.array([stamp for _, stamp in events], float)
    items = np.arange(len(events))  # an event's place in the input
    sequences = Sequences.from_events(users, items, num_users=5, **{key: stamps})
    for user in range(5):
        expected = sorted(np.flatnonzero(users == user), key=lambda i: stamps[i])
        assert sequences[user].tolist() == [int(i) for i in expected]


def test_order_beats_times_and_columns_move_together():
    sequences = Sequences.from_events(
        [1, 0, 1], [7, 8, 9], times=[1.0, 2.0, 3.0], order=[5, 0, 4], actions=[2, 1, 0]
    )
    assert sequences[1].tolist() == [9, 7]
    assert sequences.times.tolist() == [2.0, 3.0, 1.0]
    assert sequences.actions.tolist() == [1, 0, 2]
    assert len(sequences) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"users": [0, -1], "items": [0, 1]}, "users: expected whole .* found -1"),
        ({"users": [0, 0], "items": [0, -3]}, "items: expected whole .* found -3"),
        ({"users": [0, 0], "items": [0]}, "items: expected 2 values, found 1"),
        ({"users": [0], "items": [0], "times": [np.nan]}, "expected finite numbers"),
        ({"users": [3], "items": [0], "num_users": 2}, "num_users: expected at least 4, found 2"),
    ],
)
def test_bad_events_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sequences.from_events(**arguments)


def test_what_is_no_item_is_minus_one():
    """As docs say and files have it."""
    rows = pad_histories(Sequences.from_events([0], [3]), 2)
    assert rows["items"].tolist() == [[3, -1]]


def test_rows_of_an_empty_log_have_its_columns():
    with_times = pad_histories(Sequences([], [0, 0], times=[]), 2)
    assert with_times["times"].tolist() == [[0, 0]]
    assert set(pad_histories(Sequences([], [0, 0]), 2)) == {"items"}


def test_users_may_be_as_sparse_as_a_million():
    assert len(Sequences.from_events([999_999], [0])) == 1_000_000
    with pytest.raises(ValueError, match=r"^users: expected ids below 1000000 .* found 1000000$"):
        Sequences.from_events([5, 1_000_000], [0, 0])
    assert len(Sequences.from_events([1_000_000], [0], num_users=1_000_001)) == 1_000_001


def test_a_user_beyond_the_last_is_refused():
    with pytest.raises(IndexError, match="user: expected 0 to 0, found 1"):
        Sequences.from_events([0], [0])[1]


def test_histories_keep_the_last_events_left_aligned():
    sequences = Sequences.from_events(
        [0, 0, 0, 0, 1], [3, 4, 5, 6, 7], times=[10.0, 11.0, 15.0, 16.0, 0.0], num_users=3
    )
    rows = pad_histories(sequences, 3)
    assert rows["items"].tolist() == [[4, 5, 6], [7, PAD, PAD], [PAD, PAD, PAD]]
    assert rows["times"].tolist() == [[0, 4, 1], [0, 0, 0], [0, 0, 0]]
    assert rows["items"].dtype == np.int32 and rows["times"].dtype == np.float32
    assert "actions" not in rows


def test_surfaces_and_static_features_follow_their_events_and_users():
    static = [[1, -1], [2, 0], [3, 5]]
    sequences = Sequences.from_events(
        [2, 0, 2, 2],
        [7, 8, 9, 6],
        times=[3.0, 2.0, 1.0, 4.0],
        surfaces=[0, 1, 2, 3],
        static=static,
    )
    assert sequences.surfaces.tolist() == [1, 2, 0, 3]
    assert sequences.owners(np.arange(4)).tolist() == [0, 2, 2, 2]
    rows = pad_histories(sequences, 2)
    assert rows["surfaces"].tolist() == [[1, 0], [0, 0], [0, 3]]
    assert rows["static"].tolist() == static and rows["static"].dtype == np.int32
    chosen = sequences.select([2, 1, 2])
    assert chosen.static.tolist() == [static[2], static[1], static[2]]
    assert sequences.ranges([1, 0], [3, 1]).static.tolist() == [static[2], static[0]]
    assert sequences.ranges([1, 1], [1, 2], users=[1, 2]).static.tolist() == static[1:]
    with pytest.raises(ValueError, match="users: expected the users of empty ranges"):
        sequences.ranges([1], [1])


def test_windows_know_their_users_static_features():
    sequences = Sequences.from_events([0, 1, 1, 1], [5, 6, 7, 8], static=[[4], [9]])
    index, valid = window_index(np.array([1, 2, 0, 0]), np.array([2, 1, 1, 0]), 2)
    assert gather_rows(sequences, index, valid)["static"].tolist() == [[9], [9], [4], [-1]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"surfaces": [0]}, "surfaces: expected 2 values, one per event, found 1"),
        ({"surfaces": [0, -1]}, r"surfaces: expected whole numbers from 0 to 2\^31 - 1, found -1"),
        ({"static": [1]}, r"static: expected 2 dimensions, found shape \[1\]"),
        (
            {"static": [[1], [2]]},
            r"static: expected shape \[1, G\], one row per user, found \[2, 1\]",
        ),
        ({"static": [[-2]]}, "static: expected whole numbers from -1 .* found -2"),
    ],
)
def test_bad_columns_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        Sequences([3, 4], [0, 2], **columns)


def test_histories_without_any_event_are_padding():
    empty = Sequences(np.zeros(0), np.zeros(3), actions=np.zeros(0))
    assert (pad_histories(empty, 2)["items"] == PAD).all()
    known = Sequences(np.zeros(0), np.zeros(3), surfaces=np.zeros(0), static=[[1], [2]])
    assert pad_histories(known, 2)["static"].tolist() == [[1], [2]]
