import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxtpost_jax.events.batches import train_batches
from nxtpost_jax.events.filters import apply_filter
from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.events.splits import leave_one_out


def drawn(seed, num_users=6, num_items=9):
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(num_users), rng.integers(0, 9, num_users))
    return Sequences.from_events(
        users,
        rng.integers(0, num_items, len(users)),
        times=np.arange(len(users)) * 1.0,
        actions=rng.integers(0, 3, len(users)),
        static=rng.integers(0, 2, (num_users, 1)),
        num_users=num_users,
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sets(st.integers(0, 8)), st.integers(0, 2))
def test_what_is_refused_is_in_no_history_and_no_label(seed, refused, action):
    sequences = drawn(seed)
    item_allowed = ~np.isin(np.arange(9), list(refused))
    kept = apply_filter(sequences, item_allowed, event_allowed=sequences.actions != action)
    assert len(kept) == len(sequences)
    np.testing.assert_array_equal(kept.static, sequences.static)
    for user in range(len(sequences)):
        events = slice(sequences.offsets[user], sequences.offsets[user + 1])
        expected = [
            (item, time)
            for item, time, a in zip(
                sequences.items[events], sequences.times[events], sequences.actions[events]
            )
            if item not in refused and a != action
        ]
        rows = slice(kept.offsets[user], kept.offsets[user + 1])
        assert list(zip(kept.items[rows], kept.times[rows])) == expected
    split = leave_one_out(kept)
    for queries in (split.validation, split.test):
        assert not np.isin(queries.targets, list(refused)).any()
        assert not np.isin(queries.histories.items, list(refused)).any()
    if split.train.lengths.max() > 1:
        for batch in train_batches(split.train, max_len=4, batch_size=3, seed=0, epoch=0):
            assert not np.isin(batch["items"], list(refused)).any()
            assert not np.isin(batch["labels"], list(refused)).any()


def test_without_a_mask_nothing_is_left_out():
    sequences = drawn(0)
    np.testing.assert_array_equal(apply_filter(sequences).items, sequences.items)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"item_allowed": np.ones(8, int)}, r"item_allowed: expected bool\[n\], found int64\[8\]"),
        (
            {"item_allowed": np.ones(1, bool)},
            "item_allowed: expected at least 2 entries, one per item, found",
        ),
        (
            {"event_allowed": np.ones(5, bool)},
            r"event_allowed: expected bool\[2\], found bool\[5\]",
        ),
    ],
)
def test_a_mask_of_another_shape_is_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        apply_filter(Sequences.from_events([0, 0], [1, 0]), **masks)
