"""Requests meet few shapes, and none that `warm_up` has not compiled."""

import contextlib

import jax
import numpy as np
import pytest

from nxtpost_jax.events.sequences import PAD
from nxtpost_jax.serving import programs
from tests.nxtpost.small_recommender import TINY, N, drawn, drawn_content

LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"  # of every program that is compiled


@contextlib.contextmanager
def compiled():
    """Collect the programs that are compiled within."""
    found = []

    def note(event, duration, **of):
        if event == LOWERED:
            found.append(of.get("fun_name", event))

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def items_of(rng, recommender, count):
    return rng.choice(recommender.items, count, replace=False)


def ask(recommender, rng, number):
    """One of the requests there are, of up to three rows and 20 items."""
    count, k = int(rng.integers(1, 4)), int(rng.integers(1, 21))
    histories = [items_of(rng, recommender, rng.integers(1, 20)) for _ in range(count)]
    limits = [
        {},
        {"allowed": items_of(rng, recommender, 9)},
        {"exclude": [items_of(rng, recommender, rng.integers(0, 5)) for _ in range(count)]},
        {"exclude_seen": False},
        {"allowed": [items_of(rng, recommender, 7) for _ in range(count)]},
    ][number % 5]
    match number % 7:
        case 0 | 1:
            recommender.recommend(histories, k, **limits)
        case 2:
            recommender.search(rng.normal(size=(count, TINY.d_model)), k)
        case 3:
            recommender.similar(items_of(rng, recommender, count), k)
        case 4:
            recommender.update(number % 5, int(items_of(rng, recommender, 1)[0]))
            recommender.update([number % 5, "a", "b"][:count], items_of(rng, recommender, count))
            recommender.recommend_user(number % 5, k)
        case 5:
            recommender.add(drawn_content("vectors", count, seed=number))
        case 6:
            recommender.remove(items_of(rng, recommender, min(count, 2)))


def test_nothing_is_compiled_after_a_warm_up():
    recommender, rng = drawn(TINY, drawn_content("vectors")), np.random.default_rng(0)
    recommender.warm_up(rows=3, k=20)
    with compiled() as found:
        for number in range(200):
            ask(recommender, rng, number)
        gone = recommender.catalogue.removed
        recommender.add(ids=gone[gone < N][:1])
    assert found == []


def test_a_warm_up_changes_nothing():
    recommender = drawn(TINY, drawn_content("vectors"))
    before = recommender.recommend([[1, 2]], 5), recommender._served.now
    recommender.warm_up()
    assert recommender._served.now is before[1]
    for one, other in zip(before[0], recommender.recommend([[1, 2]], 5)):
        np.testing.assert_array_equal(one, other)


def test_k_is_padded():
    """10 and 11 items come by one program, and the first ten are the same."""
    recommender = drawn(TINY, drawn_content("vectors"))
    ten = recommender.recommend([[1, 2]], 10)
    with compiled() as found:
        eleven = recommender.recommend([[1, 2]], 11)
    assert found == [] and eleven.ids.shape == (1, 11)
    np.testing.assert_array_equal(ten.ids, eleven.ids[:, :10])


def test_columns_that_no_model_reads_are_no_other_program():
    recommender = drawn(TINY, drawn_content("vectors"))
    recommender.recommend({"user": [0, 0], "item": [1, 2]}, 3)
    with compiled() as found:
        recommender.recommend({"user": [0, 0], "item": [1, 2], "time": [5, 6]}, 3)
    assert found == []


@pytest.mark.parametrize(("count", "masked"), [(16, False), (17, True)])
def test_a_query_may_leave_out_any_number_of_items(count, masked):
    """More than the width of lists go by a mask; which way does not show."""
    recommender = drawn(TINY, drawn_content("vectors"))
    out = np.arange(count)
    ids, _ = recommender.recommend([[20], [21, 22]], N - 2, exclude=[out, [3, PAD]])
    assert set(ids[0]) - {PAD} == set(range(count, N)) - {20}
    assert set(ids[1]) - {PAD} == set(range(N)) - {3, 21, 22}
    assert (programs.left_out_width(TINY.max_len) < count) == masked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "rows: expected at least 1, found 0"),
        ({"k": 2.5}, "k: expected at least 1, found 2.5"),
    ],
)
def test_what_cannot_be_warmed_up_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        drawn(TINY, drawn_content("vectors")).warm_up(**options)
