"""Requests while the catalogue changes: none fails, and each is answered by one state of it."""

import dataclasses
import threading

import jax
import numpy as np
import optax
import pytest

from nxtpost_jax.events.sequences import PAD, Sequences
from nxtpost_jax.serving import requests
from nxtpost_jax.serving.live_users import Event
from nxtpost_jax.serving.recommender import Recommender
from nxtpost_jax.towers.model import NxtPostConfig
from tests.nxtpost.small_recommender import drawn

N, K = 200, 5
TINY = NxtPostConfig(d_model=16, num_layers=1, max_len=8, id_embedding=True, dropout=0.0)


def content(rows=N, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 6)).astype(np.float32)


@pytest.fixture
def recommender():
    return drawn(TINY, content())


def change(recommender, number):
    """Take an item of the histories out and bring it back as another; reuse slots."""
    recommender.remove([2])
    yield
    ids = recommender.add(content(1, seed=number))
    yield
    recommender.add(content(1, seed=100 + number), [2])
    yield
    recommender.remove(ids)
    yield


def while_changing(recommender, ask, *, changes=15):
    """Call `ask` from two threads while a third changes the catalogue: answers, and its states."""
    ask()  # compiles
    for _ in change(recommender, 99):
        ask()
    states, answers, failures, done = [recommender._reader()], [], [], threading.Event()

    def write():
        for number in range(changes):
            for _ in change(recommender, number):
                states.append(recommender._reader())
        done.set()

    def read():
        while not done.is_set():
            answers.append(ask())

    def guarded(work):
        try:
            work()
        except Exception as error:  # a thread's own would be lost
            failures.append(error)
            done.set()

    threads = [threading.Thread(target=guarded, args=[work]) for work in (write, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    assert len(states) == 1 + 4 * changes and len(answers) > 4
    return states, answers


def check_each_is_of_one_state(answers, expected, *, atol=0.0):
    for ids, scores in answers:
        assert any(
            np.array_equal(ids, other) and np.allclose(scores, others, rtol=0, atol=atol)
            for other, others in expected
        )
        assert (ids != PAD).all()


def test_requests_see_one_state_of_the_catalogue(recommender):
    history = [[1, 2, 3]]
    states, answers = while_changing(recommender, lambda: recommender.recommend(history, K))
    options = {"k": K}
    expected = [requests.recommend(state, history, **options) for state in states]
    assert len({answer.ids.tobytes() for answer in expected}) > 2  # the changes do show
    check_each_is_of_one_state(answers, expected)


def test_stored_vectors_and_similar_items_see_one_state(recommender):
    vectors = recommender.embed_users([[1, 3]])

    def ask():
        both = recommender.search(vectors, K), recommender.similar([7], K)
        return tuple(np.concatenate(part) for part in zip(*both))

    states, answers = while_changing(recommender, ask)
    found = [requests.search(state, vectors, k=K) for state in states]
    like = [requests.similar(state, [7], k=K) for state in states]
    for row, expected in enumerate((found, like)):
        own = [(ids[row : row + 1], scores[row : row + 1]) for ids, scores in answers]
        check_each_is_of_one_state(own, expected)


def test_live_users_see_one_state(recommender):
    for item in (1, 2, 3):
        recommender.update("a", Event(item))
    states, answers = while_changing(recommender, lambda: recommender.recommend_user("a", K))
    options = {"k": K}
    expected = [requests.recommend(state, [[1, 2, 3]], **options) for state in states]
    check_each_is_of_one_state(answers, expected, atol=1e-5)


def test_events_while_the_catalogue_changes_end_in_the_vector_of_all_of_them(recommender):
    count = iter(range(10_000))

    def ask():
        user = next(count) % 7
        return recommender.update(user, 3 + user), user

    _, answers = while_changing(recommender, ask)
    events = np.bincount([user for _, user in answers])
    assert events.min() > 0
    for user in range(7):
        (vector,) = recommender.embed_users([[3 + user] * 8])  # max_len or more of one item
        for _ in range(8):
            latest = recommender.update(user, 3 + user)
        np.testing.assert_allclose(latest, vector, atol=1e-5)


def test_a_user_read_by_an_older_catalogue_is_read_anew(recommender):
    recommender.update("a", 1)
    recommender.update("a", 2)
    old = recommender._reader()
    recommender.remove([2])
    recommender.add(content(1, seed=5), [2])
    for reader in (recommender._reader(), old, recommender._reader()):
        vector, _, _ = recommender._live.current("a", take=lambda reader=reader: reader)
        expected = requests.embed_users(reader, [[1, 2]])[0]
        np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_writers_take_turns(recommender):
    added = [[] for _ in range(3)]

    def write(ids):
        for seed in range(12):
            ids += recommender.add(content(1, seed)).tolist()

    threads = [threading.Thread(target=write, args=[ids]) for ids in added]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(item for ids in added for item in ids) == list(range(N, N + 36))
    assert len(recommender.catalogue) == N + 36


def test_requests_go_on_during_fit():
    """Those of the model before; what is removed meanwhile stays so, users keep their events."""
    walks = Sequences.from_events(
        np.repeat(np.arange(40), 6), (np.arange(40)[:, None] + np.arange(6)).ravel() % 24
    )
    recommender = Recommender(TINY, content(24), tx=optax.adam(1e-2))
    options = {"epochs": 1, "batch_size": 32, "num_negatives": 16}
    recommender.fit(walks, **options)
    before = recommender.recommend([[1, 2]], K)
    old = recommender.params
    for item in (3, 4):
        recommender.update("a", item)

    def meanwhile(record):
        for one, other in zip(before, recommender.recommend([[1, 2]], K)):
            np.testing.assert_array_equal(one, other)
        with pytest.raises(ValueError, match="recommender: expected no fit under way, found one"):
            recommender.fit(walks, **options)
        with pytest.raises(ValueError, match="which would not know the new items"):
            recommender.add(content(1))
        recommender.remove([9])

    recommender.fit(walks, **options | {"seed": 1}, log=meanwhile)
    changed = jax.tree.map(
        lambda one, other: float(abs(one - other).max()), old, recommender.params
    )
    assert max(jax.tree.leaves(changed)) > 1e-3
    assert recommender.catalogue.removed.tolist() == [9]
    assert 9 not in recommender.recommend([[7, 8]], 23, exclude_seen=False).ids
    vector = recommender.update("a", 5)
    expected = recommender.embed_users([[3, 4, 5]])[0]
    np.testing.assert_allclose(vector, expected, atol=1e-5)
    recommender.add(content(1))  # the fit is over


def test_a_failed_fit_leaves_the_model_before():
    recommender = drawn(TINY, content())
    before = recommender.recommend([[1, 2]], K)
    with pytest.raises(ValueError, match="num_negatives: expected at least 1"):
        recommender.fit(Sequences([1, 2], [0, 2]), epochs=1, num_negatives=0)
    with pytest.raises(RuntimeError, match="enough"):
        recommender.fit(Sequences([1, 2], [0, 2]), epochs=1, batch_size=1, log=_stop)
    for one, other in zip(before, recommender.recommend([[1, 2]], K)):
        np.testing.assert_array_equal(one, other)
    recommender.add(content(1))


def _stop(record):
    raise RuntimeError("enough")


def test_a_reader_is_frozen(recommender):
    with pytest.raises(dataclasses.FrozenInstanceError):
        recommender._reader().params = None
