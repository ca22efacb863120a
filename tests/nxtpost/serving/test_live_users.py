import dataclasses

import numpy as np
import pytest

from nxtpost_jax.events.sequences import Sequences, pad_histories
from nxtpost_jax.serving import streaming
from nxtpost_jax.serving.live_users import Event
from nxtpost_jax.towers.model import NxtPostConfig
from tests.nxtpost.small_recommender import drawn

N, L = 20, 6
CONFIG = NxtPostConfig(
    d_model=8,
    num_layers=1,
    max_len=L,
    id_embedding=True,
    num_actions=3,
    num_surfaces=2,
    static_sizes=(3,),
    pooling="mean",
    relative_bias="both",
)


def log(num_users=8, seed=0):
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(num_users), 9)
    return Sequences.from_events(
        users,
        rng.integers(0, N, len(users)),
        times=np.sort(rng.random(len(users)) * 1e5),
        actions=rng.integers(0, 3, len(users)),
        surfaces=rng.integers(0, 2, len(users)),
        static=rng.integers(0, 3, (num_users, 1)),
    )


@pytest.fixture(scope="module")
def recommender():
    content = np.random.default_rng(0).normal(size=(N, 4))
    return drawn(CONFIG, content, histories=pad_histories(log(), L))


def first_events(user, count, seed=5):
    events = log(seed=seed)
    start = events.offsets[user]
    return events.ranges([start], [start + count], users=[user])


def event(history):
    """The last event of a history."""
    fields = {"times": "time", "actions": "action", "surfaces": "surface"}
    rest = {field: getattr(history, name)[-1].item() for name, field in fields.items()}
    return Event(int(history.items[-1]), **rest)


def check(recommender, user, history, vector):
    np.testing.assert_allclose(vector, recommender.embed_users(history)[0], atol=1e-5)
    ids, cosines = recommender.recommend_user(user, 3)
    expected = recommender.recommend(history, 3)
    np.testing.assert_array_equal(ids, expected.ids)
    np.testing.assert_allclose(cosines, expected.scores, atol=1e-5)
    kept = recommender.recommend_user(user, 3, exclude=[[int(ids[0, 0]), -1]], exclude_seen=False)
    assert ids[0, 0] not in kept.ids
    assert len(kept.pairs(0)) == 3


@pytest.mark.parametrize("start", [0, 2])
def test_every_event_gives_the_vector_of_the_full_forward(recommender, start, monkeypatch):
    """Beyond max_len too; before it only the first call reads a whole history."""
    calls = []
    whole = streaming.prefill
    monkeypatch.setattr(
        "nxtpost_jax.serving.live_users.prefill",
        lambda *towers, **given: (calls.append(count), whole(*towers, **given))[1],
    )
    user = ("reader", start)
    for count in range(start + 1, 10):
        history = first_events(1, count)
        given = first_events(1, start) if count == start + 1 else None
        vector = recommender.update(user, event(history), history=given)
        check(recommender, user, history, vector)
    assert calls == [start + 1, *range(L + 1, 10)]


def test_items_that_come_and_go_change_what_is_read(recommender):
    history = first_events(2, 3)
    recommender.update("a", event(history), history=first_events(2, 2))
    gone = int(history.items[1])
    recommender.remove([gone])
    ids, cosines = recommender.recommend_user("a", 3)
    expected = recommender.recommend(history, 3)
    np.testing.assert_array_equal(ids, expected.ids)
    np.testing.assert_allclose(cosines, expected.scores, atol=1e-5)
    longer = first_events(2, 4)
    assert gone != longer.items[-1]  # the seed sees to it
    check(recommender, "a", longer, recommender.update("a", event(longer)))
    with pytest.raises(ValueError, match="event: expected item ids of the catalogue"):
        recommender.update("a", dataclasses.replace(event(longer), item=gone))
    # It comes back with other content, in the slot that it had.
    recommender.add(np.ones((1, 4)), [gone])
    longer = first_events(2, 5)
    check(recommender, "a", longer, recommender.update("a", event(longer)))


def test_a_backfill_shrinks_as_events_come(recommender):
    def backfill(histories):
        count = max(3 - int(histories.lengths[0]), 0)
        fills = np.arange(10, 10 + count)
        zeros = np.zeros(count)
        return Sequences(
            np.concatenate([fills, histories.items]),
            [0, count + len(histories.items)],
            times=np.concatenate([zeros, histories.times]),
            actions=np.concatenate([zeros, histories.actions]),
            surfaces=np.concatenate([zeros, histories.surfaces]),
            static=histories.static,
        )

    recommender.backfill = backfill
    try:
        for count in range(1, 6):
            history = first_events(3, count)
            given = first_events(3, 0) if count == 1 else None
            check(recommender, "b", history, recommender.update("b", event(history), history=given))
    finally:
        recommender.backfill = None


def test_a_user_without_events_is_read_by_static_features(recommender):
    vectors = recommender.embed_users(log().ranges([0, 0], [0, 0], users=[1, 2]))
    assert np.isfinite(vectors).all()


def test_what_cannot_be_added_leaves_the_user_as_before(recommender):
    history = first_events(4, 2)
    recommender.update("c", event(history), history=first_events(4, 1))
    good = event(history)
    cases = [
        (dataclasses.replace(good, time=0.0), None, "event: expected the oldest event first"),
        (dataclasses.replace(good, time=None), None, "event: expected time to be one, as before"),
        (dataclasses.replace(good, item=999), None, "event: expected item ids of the catalogue"),
        (dataclasses.replace(good, item=-1), None, "event: expected whole numbers from 0"),
        (good, first_events(4, 1), "history: expected none for user 'c', found a second one"),
    ]
    for bad, given, message in cases:
        with pytest.raises(ValueError, match=message):
            recommender.update("c", bad, history=given)
    longer = first_events(4, 3)
    check(recommender, "c", longer, recommender.update("c", event(longer)))
    with pytest.raises(ValueError, match="history: expected that of one user, found 2"):
        recommender.update("d", good, history=log().select([0, 1]))
    with pytest.raises(ValueError, match="history: expected Sequences or a table with static"):
        recommender.update("d", good)
    recommender.forget_user("c")
    for name in ("c", "d"):
        with pytest.raises(ValueError, match="user: expected one that update was called for"):
            recommender.recommend_user(name, 2)


def test_updates_are_traced_once(recommender):
    for user in range(2):
        for count in range(1, 5):
            history = first_events(user, count)
            given = first_events(user, 0) if count == 1 else None
            recommender.update(("t", user), event(history), history=given)
            if (user, count) == (0, 3):
                traced = streaming._extend._cache_size(), streaming.prefill._cache_size()
    assert (streaming._extend._cache_size(), streaming.prefill._cache_size()) == traced


def test_users_of_one_call_get_the_vectors_of_single_calls(recommender, monkeypatch):
    """New ones and known ones, one of them twice, more than a program reads."""
    monkeypatch.setattr("nxtpost_jax.serving.live_users.MOST_USERS", 4)
    histories = {("m", n): first_events(n % 8, 1 + n % 5) for n in range(11)}
    for user, history in list(histories.items())[::2]:
        one = first_events(user[1] % 8, 0)
        for count in range(1, len(history.items) + 1):
            history = first_events(user[1] % 8, count)
            recommender.update(user, event(history), history=one if count == 1 else None)
    static = recommender._live._users[("m", 0)].events.static
    known = list(histories)[::2]
    calls = []
    monkeypatch.setattr(
        "nxtpost_jax.serving.live_users.prefill", lambda *of, **given: calls.append(given)
    )
    longer = [first_events(n % 8, 2 + n % 5) for _, n in known]
    vectors = recommender.update(known, [event(each) for each in longer])
    assert not calls and vectors.shape == (6, CONFIG.d_model) and static is not None
    for user, history, vector in zip(known, longer, vectors):
        check(recommender, user, history, vector)
    monkeypatch.undo()
    twice = [first_events(0, 3), first_events(0, 4)]
    both = recommender.update([("m", 0)] * 2, [event(each) for each in twice])
    np.testing.assert_array_equal(*both)
    check(recommender, ("m", 0), twice[1], both[0])


def test_a_call_for_many_that_is_refused_changes_none(recommender):
    for user in (5, 6):
        recommender.update(("w", user), event(first_events(user, 1)), history=first_events(user, 0))
    users, before = [("w", 5), ("w", 6)], [first_events(user, 1) for user in (5, 6)]
    good = [event(first_events(user, 2)) for user in (5, 6)]
    early = dataclasses.replace(good[1], time=0.0)
    for given, message in [
        ((users, [good[0], early]), "event: expected the oldest event first"),
        ((users, [good[0], dataclasses.replace(good[1], item=999)]), "event: expected item ids"),
        ((users, good[:1]), "event: expected a list, one event per user, found 1 of 2"),
        ((users, good[0]), "event: expected a list, one event per user, found Event"),
        (([], []), "event: expected a list, one event per user, found 0 of 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            recommender.update(*given)
    with pytest.raises(ValueError, match="history: expected None beside a list of users"):
        recommender.update(users, good, history=before[0])
    for user, history, after in zip(users, before, good):
        np.testing.assert_array_equal(recommender._live._users[user].events.items, history.items)
        check(recommender, user, first_events(user[1], 2), recommender.update(user, after))
