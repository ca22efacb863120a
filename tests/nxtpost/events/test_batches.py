import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxtpost_jax.events.batches import (
    batch_shapes,
    steps_per_epoch,
    train_batches,
    training_windows,
)
from nxtpost_jax.events.sequences import PAD, Sequences


def drawn_sequences(lengths):
    users = np.repeat(np.arange(len(lengths)), lengths)
    items = np.arange(len(users))
    return Sequences.from_events(users, items, times=items * 2.0, num_users=len(lengths))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(1, 9))
def test_windows_cover_every_transition_and_none_between_users(lengths, max_len):
    sequences = drawn_sequences(lengths)
    starts, sizes = training_windows(sequences, max_len)
    labels = {int(s) + i + 1 for s, n in zip(starts, sizes) for i in range(n)}
    first_events = set(sequences.offsets[:-1].tolist())
    assert labels == set(range(len(sequences.items))) - first_events
    assert (sizes <= max_len).all() and (sizes > 0).all()


def test_batches_pair_each_event_with_the_next():
    sequences = drawn_sequences([1, 9, 2, 4])
    batches = list(train_batches(sequences, max_len=4, batch_size=3, seed=0, epoch=0))
    assert len(batches) == steps_per_epoch(sequences, max_len=4, batch_size=3) == 2
    for batch in batches:
        assert batch["items"].shape == batch["labels"].shape == batch["times"].shape == (3, 4)
        assert batch["items"].dtype == batch["labels"].dtype == np.int32
        real = batch["items"] != PAD
        np.testing.assert_array_equal(real, batch["labels"] != PAD)
        np.testing.assert_array_equal(batch["labels"][real], batch["items"][real] + 1)
        assert set(batch["times"][:, 1:][real[:, 1:]]) <= {2.0}


def test_the_last_batch_is_filled_up_and_every_window_appears():
    sequences = drawn_sequences([5] * 7)
    rows = np.concatenate(
        [b["items"] for b in train_batches(sequences, max_len=4, batch_size=3, seed=1, epoch=2)]
    )
    assert rows.shape == (9, 4)
    assert len(np.unique(rows[:, 0])) == 7


def test_seed_and_epoch_alone_decide_the_order():
    sequences = drawn_sequences([5] * 16)

    def order(seed, epoch):
        batches = train_batches(sequences, max_len=4, batch_size=16, seed=seed, epoch=epoch)
        return next(batches)["items"][:, 0].tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(*at)) for at in [(0, 0), (0, 1), (1, 0), (1, 1)]}) == 4


def test_nothing_to_train_on_is_refused():
    with pytest.raises(ValueError, match="a user with at least two events"):
        next(train_batches(drawn_sequences([1, 1]), max_len=4, batch_size=2, seed=0, epoch=0))
    with pytest.raises(ValueError, match="batch_size: expected at least 1, found 0"):
        next(train_batches(drawn_sequences([3]), max_len=4, batch_size=0, seed=0, epoch=0))
    with pytest.raises(ValueError, match="num_labels: expected at least 1, found 0"):
        shapes = {"max_len": 4, "batch_size": 2, "num_labels": 0}
        next(train_batches(drawn_sequences([3]), seed=0, epoch=0, **shapes))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=20).filter(lambda x: max(x) > 1),
    st.integers(1, 9),
    st.integers(1, 4),
)
def test_buckets_hold_the_same_windows_in_narrower_rows(lengths, max_len, buckets):
    sequences = drawn_sequences(lengths)
    sizes = {"max_len": max_len, "batch_size": 2}
    draw = {"seed": 3, "epoch": 1}
    batches = list(train_batches(sequences, **sizes, **draw, buckets=buckets))
    assert len(batches) == steps_per_epoch(sequences, **sizes, buckets=buckets)
    assert {batch["items"].shape for batch in batches} == set(
        batch_shapes(sequences, **sizes, buckets=buckets)
    )

    def windows(batches):
        return {tuple(row[row != PAD].tolist()) for batch in batches for row in batch["items"]}

    assert windows(batches) == windows(train_batches(sequences, **sizes, **draw))
    widths = [-(-max_len // 2**i) for i in range(buckets)]
    for batch in batches:
        rows, width = batch["items"].shape
        used = (batch["items"] != PAD).sum(axis=1)
        assert rows == 2 * (max_len // width)
        assert all(width == min(w for w in widths if w >= n) for n in used)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(lambda x: max(x) > 1),
    st.integers(1, 7),
    st.integers(1, 5),
)
def test_long_labels_follow_what_the_pooled_vector_reads(lengths, max_len, num_labels):
    """Items number the events, so a row's place in its user's log can be read off it."""
    sequences = drawn_sequences(lengths)
    shapes = {"max_len": max_len, "batch_size": 4, "seed": 0, "epoch": 0}
    plain = train_batches(sequences, **shapes)
    for batch, short in zip(train_batches(sequences, num_labels=num_labels, **shapes), plain):
        for name in ("items", "labels", "times", "users"):
            np.testing.assert_array_equal(batch[name], short[name])
        for row in range(4):
            items, user = batch["items"][row], batch["users"][row]
            own = sequences[user].tolist()
            assert items[0] in own
            inputs, read = int((items != PAD).sum()), batch["pooled_lengths"][row]
            assert 1 <= read <= inputs
            follow = own[own.index(items[read - 1]) + 1 :][:num_labels]
            expected = follow + [PAD] * (num_labels - len(follow))
            assert batch["long_labels"][row].tolist() == expected
            # All m labels, unless the user has too few events after the window's first.
            assert len(follow) == min(num_labels, len(own) - own.index(items[0]) - 1)
            # No input is given up where the labels exist beyond it.
            assert read == inputs or own[-1] - items[read] + 1 == len(follow)


def test_one_long_label_is_the_last_short_one():
    sequences = drawn_sequences([1, 9, 2, 4])
    for batch in train_batches(sequences, max_len=4, batch_size=3, seed=0, epoch=0):
        inputs = (batch["items"] != PAD).sum(axis=1)
        np.testing.assert_array_equal(batch["pooled_lengths"], inputs)
        np.testing.assert_array_equal(
            batch["long_labels"][:, 0], batch["labels"][np.arange(3), inputs - 1]
        )


def test_static_features_come_with_their_users():
    sequences = drawn_sequences([1, 9, 2, 4])
    static = np.arange(8).reshape(4, 2)
    sequences = dataclasses.replace(sequences, static=static)
    for batch in train_batches(sequences, max_len=4, batch_size=3, seed=0, epoch=0):
        np.testing.assert_array_equal(batch["static"], static[batch["users"]])


def test_static_features_alone_are_trained_too():
    """Where there are any, every user's first event is the label of a row without inputs."""
    sequences = drawn_sequences([1, 9, 0, 2, 4])
    static = np.arange(5)[:, None]
    told = dataclasses.replace(sequences, static=static)
    shapes = {"max_len": 4, "batch_size": 1, "seed": 0, "epoch": 0}
    batches = list(train_batches(told, num_labels=2, **shapes))
    empty = [b for b in batches if (b["items"] == PAD).all()]
    assert sorted(int(b["users"][0]) for b in empty) == [0, 1, 3, 4]
    for batch in empty:
        (user,) = batch["users"]
        own = sequences[user].tolist()
        assert batch["labels"].tolist() == [[own[0], PAD, PAD, PAD]]
        assert batch["long_labels"][0].tolist() == [*own, PAD][:2]
        assert batch["static"].tolist() == [[user]]
        assert batch["pooled_lengths"].tolist() == [0]
    plain = train_batches(sequences, **shapes)
    assert len(batches) - len(empty) == len(list(plain))
