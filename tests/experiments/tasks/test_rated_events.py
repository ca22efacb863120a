"""Rated events as examples of a scorer."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.drawn import drawn_ratings
from experiments.harness.errors import InputError
from experiments.tasks.neighbours import (
    FOLDS,
)
from experiments.tasks.rated_events import is_rated, make_examples, user_side


def test_histories_are_what_precedes_an_event(examples):
    rows = np.array([0, 5, 47, 119])
    batch = examples.histories(rows)
    for k, row in enumerate(rows):
        start = np.searchsorted(examples.users, examples.users[row])
        items, labels = examples.items[start:row], examples.labels[start:row]
        for name, own in (("liked", items[labels == 1]), ("disliked", items[labels == 0])):
            got = batch[name][k]
            np.testing.assert_array_equal(got[got >= 0], own[::-1][: got.size])
        assert set(examples.seen(rows)[k]) - {-1} == set(items.tolist())
        assert batch["last"][k] == (items[-1] if len(items) else -1)


def test_the_crosses_count_genres_of_liked_items_only(examples):
    batch = examples.histories(np.array([25]))
    genres = jnp.asarray(examples.genres)
    features, tables = user_side(
        batch, genres, num_genres=len(examples.genre_names), followers=examples.followers
    )
    liked = batch["liked"][0]
    expected = np.bincount(
        examples.genres[liked[liked >= 0]].ravel(), minlength=len(examples.genre_names)
    )
    np.testing.assert_array_equal(tables["genre"].counts[0], expected)
    np.testing.assert_allclose(features["taste"][0].sum(), 1, rtol=1e-6)


def test_a_training_event_reads_followers_counted_without_its_user(examples):
    training, later = examples.rows(0)[30], examples.rows(2)[10]
    batch = examples.histories(np.array([training, later]))
    assert batch["fold"].tolist() == [examples.users[training] % FOLDS, -1]
    genres = jnp.asarray(examples.genres)
    _, tables = user_side(
        batch,
        genres,
        num_genres=len(examples.genre_names),
        followers=jnp.asarray(examples.followers),
    )
    for k, fold in enumerate(batch["fold"]):
        lists = examples.followers[fold, batch["liked"][k][batch["liked"][k] >= 0]]
        expected = np.bincount(lists[lists >= 0], minlength=examples.num_items)
        np.testing.assert_array_equal(tables["follows"].counts[k], expected)


def test_parts_follow_time_and_years_and_genres_are_read(examples):
    for user in (0, 7):
        parts = examples.part[examples.users == user]
        assert (np.diff(parts) >= 0).all()
        assert np.bincount(parts).tolist() == [24, 3, 3]
    assert examples.genre_names == ("Comedy", "Drama", "Horror", "War", "Western")
    assert examples.item_dense[:, 0].min() == -1
    assert (examples.labels[examples.next_liked(2)] == 1).all()


def test_models_may_be_days_older_than_what_they_are_tested_by():
    drawn = drawn_ratings(users=12, films=40)
    days = np.arange(drawn.n_events).reshape(12, -1).T.argsort(axis=None)  # by turns, one a day
    timed = dataclasses.replace(drawn, timestamps=86400.0 * days)
    examples = make_examples(timed, stale_days=30)
    count, tenth = drawn.n_events, drawn.n_events // 10
    old = count - tenth - 30
    ninth = -(-old // 9)
    for part, (first, after) in {
        0: (0, old - ninth),
        1: (old - ninth, old),
        -1: (old, count - tenth),
        2: (count - tenth, count),
    }.items():
        assert set(days[examples.rows(part)]) == set(range(first, after)), part
    # What lies between is in histories, not in what is counted of items in training.
    row = examples.next_liked(2)[0]
    before = examples.items[:row][examples.users[:row] == examples.users[row]]
    assert set(examples.seen(np.array([row]))[0]) - {-1} == set(before)
    counted = np.bincount(examples.items[examples.part == 0], minlength=examples.num_items)
    np.testing.assert_allclose(examples.item_dense[:, 1], np.log1p(counted) / 5, rtol=1e-6)


@pytest.mark.parametrize(
    "change, days, expected",
    [
        ({"timestamps": None}, 30.0, "expected events with times, found none"),
        ({}, 1e9, "expected events 1e.09 days before the last tenth of them, .* found none"),
    ],
)
def test_events_that_cannot_be_parted_by_time_are_refused(change, days, expected):
    drawn = dataclasses.replace(drawn_ratings(), **change)
    with pytest.raises(InputError, match=expected):
        make_examples(drawn, stale_days=days)


def test_data_without_ratings_is_refused():
    with pytest.raises(InputError, match="expected ratings in an order, found none"):
        make_examples(dataclasses.replace(drawn_ratings(), weights=None))


def test_liked_is_four_fifths_of_the_best_rating():
    drawn = drawn_ratings()
    of_ten = dataclasses.replace(drawn, weights=2 * drawn.weights)
    for rated in (drawn, of_ten):
        np.testing.assert_array_equal(make_examples(rated).labels, drawn.weights >= 4)
        assert is_rated(rated)


def test_strengths_of_many_values_or_of_one_are_no_ratings():
    drawn = drawn_ratings()
    quantities = np.arange(drawn.n_events, dtype=np.float32)
    assert not is_rated(dataclasses.replace(drawn, weights=quantities))
    assert not is_rated(dataclasses.replace(drawn, weights=np.ones_like(drawn.weights)))
    assert not is_rated(dataclasses.replace(drawn, weights=None))


def test_of_implicit_events_the_first_of_a_pair_counts_and_no_cancellation():
    drawn = drawn_ratings(users=12, films=40)
    again = np.sort(np.concatenate([np.arange(drawn.n_events)] * 2))  # every event twice
    actions = np.zeros(len(again), np.int32)
    actions[:2] = 1  # the first pair was cancelled, both times
    doubled = dataclasses.replace(
        drawn,
        users=drawn.users[again],
        items=drawn.items[again],
        weights=None,
        actions=actions,
        action_names=("purchase", "cancellation"),
    )
    examples = make_examples(doubled, implicit=True)
    np.testing.assert_array_equal(examples.items, drawn.items[1:])
    np.testing.assert_array_equal(examples.users, drawn.users[1:])
    assert (examples.labels == 1).all()
    assert len(examples.next_liked(1)) == 12
