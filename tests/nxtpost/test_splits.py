import numpy as np
import pytest

from nxtpost_jax.sequences import Sequences, pad_histories
from nxtpost_jax.splits import by_user, leave_one_out


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


def test_query_rows_do_not_depend_on_the_targets_time(sequences):
    late = sequences.times.copy()
    late[sequences.offsets[4:] - 1] += 1e6
    moved = leave_one_out(Sequences(sequences.items, sequences.offsets, late))
    rows = pad_histories(leave_one_out(sequences).test.histories, 5)
    for name, value in pad_histories(moved.test.histories, 5).items():
        np.testing.assert_array_equal(value, rows[name])


def test_by_user_holds_out_whole_users(sequences):
    split = by_user(sequences, [8, 1, 3], np.array([5, 0]))
    assert split.validation.users.tolist() == [3, 8]
    assert split.test.users.tolist() == [5]
    assert split.test.targets.tolist() == [sequences[5][-1]]
    assert split.test.histories[0].tolist() == sequences[5][:-1].tolist()
    lengths = split.train.lengths
    assert lengths.tolist() == [0, 0, 2, 0, 4, 0, 6, 7, 0]
    held_out = np.concatenate([sequences[user] for user in (8, 1, 3, 5, 0)])
    assert not np.isin(held_out, split.train.items).any()


def test_by_user_refuses_a_user_in_both_parts(sequences):
    with pytest.raises(ValueError, match="user 3 is among the validation users too"):
        by_user(sequences, [3], [3])
    with pytest.raises(ValueError, match=r"test_users: expected ids in \[0, 9\), found 9"):
        by_user(sequences, [3], [9])
