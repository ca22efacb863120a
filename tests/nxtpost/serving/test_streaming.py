import functools

import jax
import numpy as np
import pytest

from nxtpost_jax.events.sequences import PAD
from nxtpost_jax.serving.streaming import extend, init_cache, prefill
from tests.nxtpost.configurations import CONFIGS, RICH, drawn_histories, set_up

M, D = RICH.max_len, RICH.d_model
LENGTHS = [M, 1, 4, 0]


def item_vectors(histories, seed=5):
    shape = (*histories["items"].shape, D)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def full_forward(model, params, histories, vectors):
    """The final vectors of whole histories, without any cache."""
    states = model.apply({"params": params}, histories, vectors, method="encode_histories")
    return model.apply({"params": params}, states, histories["items"], method="pool")


def prefix(histories, lengths):
    """The first events of each row."""
    kept = np.arange(M)[None] < np.asarray(lengths)[:, None]
    return histories | {"items": np.where(kept, histories["items"], PAD)}


def event_at(histories, places):
    """One event a row: its features at each row's own place."""
    places = np.minimum(places, M - 1)[:, None]
    names = ("times", "actions", "surfaces")
    event = {name: np.take_along_axis(histories[name], places, 1)[:, 0] for name in names}
    return event | {"static": histories["static"]}


def vectors_at(vectors, places):
    return np.take_along_axis(vectors, np.minimum(places, M - 1)[:, None, None], 1)[:, 0]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_prefix_equals_the_full_forward(config):
    """Rows of other lengths, one of them never with an event; the first gap given is ignored."""
    histories = drawn_histories(LENGTHS, M)
    vectors = item_vectors(histories)
    model, params = set_up(config, histories)
    cache = init_cache(model, len(LENGTHS))
    for t in range(M):
        places = np.full(len(LENGTHS), t)
        event = event_at(histories, places)
        event["times"] += 77 * (t == 0)
        valid = t < np.array(LENGTHS)
        cache, users = extend(
            model,
            params,
            cache=cache,
            item_vectors_BxD=vectors_at(vectors, places),
            features=event,
            valid_B=valid,
        )
        lengths = np.minimum(t + 1, LENGTHS)
        np.testing.assert_array_equal(cache.lengths_B, lengths)
        expected = full_forward(model, params, prefix(histories, lengths), vectors)
        np.testing.assert_allclose(users, expected, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["gated mean", "transformer attention, relative bias", "gated last"]
)
def test_a_prefilled_cache_goes_on_as_the_full_forward(name):
    histories = drawn_histories([M - 1, 3, 4, 2], M)
    vectors = item_vectors(histories)
    model, params = set_up(CONFIGS[name], histories)
    lengths = np.array([M - 2, 2, 3, 0])
    start = prefix(histories, lengths)
    cache, users = prefill(model, params, histories=start, item_vectors_BxLxD=vectors)
    np.testing.assert_allclose(users, full_forward(model, params, start, vectors), atol=1e-6)
    event = event_at(histories, lengths)
    cache, users = extend(
        model, params, cache=cache, item_vectors_BxD=vectors_at(vectors, lengths), features=event
    )
    expected = full_forward(model, params, prefix(histories, lengths + 1), vectors)
    np.testing.assert_allclose(users, expected, atol=1e-5)


def test_a_narrow_prefill_leaves_room_to_go_on():
    histories = drawn_histories([5, 3], M)
    narrow = {name: value[:, :3].copy() for name, value in histories.items()}
    narrow["items"][1, 2] = PAD
    vectors = item_vectors(histories)
    model, params = set_up(RICH, histories)
    cache, _ = prefill(model, params, histories=narrow, item_vectors_BxLxD=vectors[:, :3])
    lengths = np.array([3, 2])
    _, users = extend(
        model,
        params,
        cache=cache,
        item_vectors_BxD=vectors_at(vectors, lengths),
        features=event_at(histories, lengths),
    )
    expected = full_forward(model, params, prefix(histories, lengths + 1), vectors)
    np.testing.assert_allclose(users, expected, atol=1e-5)


def test_a_full_row_is_refused_and_restarts_from_its_last_events():
    histories = drawn_histories([M, 2], M)
    vectors = item_vectors(histories)
    model, params = set_up(RICH, histories)
    cache, before = prefill(model, params, histories=histories, item_vectors_BxLxD=vectors)
    event = event_at(histories, np.array([0, 0]))
    with pytest.raises(ValueError, match=f"found row 0 full at max_len={M} events"):
        extend(model, params, cache=cache, item_vectors_BxD=vectors[:, 0], features=event)
    # Without an event for the full row the other one goes on, and the full one stays.
    cache, users = extend(
        model,
        params,
        cache=cache,
        item_vectors_BxD=vectors[:, 0],
        features=event,
        valid_B=np.array([False, True]),
    )
    np.testing.assert_allclose(users[0], before[0], atol=1e-6)
    np.testing.assert_array_equal(cache.lengths_B, [M, 3])

    shifted = {  # the last M of M + 1 events, as `pad_histories` lays them out
        name: value if name == "static" else np.roll(value, -1, axis=1)
        for name, value in histories.items()
    }
    shifted["times"][:, 0] = 0
    shifted_vectors = np.roll(vectors, -1, axis=1)
    one = {name: value[:1] for name, value in shifted.items()}
    new, restarted = prefill(model, params, histories=one, item_vectors_BxLxD=shifted_vectors[:1])
    cache = jax.tree.map(lambda old, row: old.at[np.array([0])].set(row), cache, new)
    np.testing.assert_array_equal(cache.lengths_B, [M, 3])
    expected = full_forward(model, params, one, shifted_vectors[:1])
    np.testing.assert_allclose(restarted, expected, atol=1e-6)


def test_inside_a_trace_a_full_row_leaves_the_event_out():
    histories = drawn_histories([M], M)
    vectors = item_vectors(histories)
    model, params = set_up(RICH, histories)
    cache, before = prefill(model, params, histories=histories, item_vectors_BxLxD=vectors)
    event = event_at(histories, np.array([1]))
    _, after = jax.jit(
        lambda cache: extend(
            model, params, cache=cache, item_vectors_BxD=vectors[:, 1], features=event
        )
    )(cache)
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_events_come_without_a_retrace():
    histories = drawn_histories([2], M)
    vectors = item_vectors(histories)
    model, params = set_up(RICH, histories)
    cache, traces = init_cache(model, 1), []

    @jax.jit
    def step(cache, vector, event):
        traces.append(1)
        return extend(model, params, cache=cache, item_vectors_BxD=vector, features=event)

    for t in range(3):
        cache, _ = step(cache, vectors[:, t], event_at(histories, np.array([t])))
    assert len(traces) == 1
    np.testing.assert_array_equal(cache.lengths_B, [3])
