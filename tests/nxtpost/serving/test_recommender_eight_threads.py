"""Eight threads ask, update, add and remove at once: no error, no lost event, no mixed answer."""

import collections
import threading
import time

import numpy as np
import pytest

from nxtpost_jax.serving import requests
from nxtpost_jax.serving.served import Served
from tests.nxtpost.small_recommender import TINY, drawn

N, K, STAYING = 200, 5, 100  # items from 100 on come and go
HISTORIES = [[n, n + 1, (7 * n) % STAYING] for n in range(0, 90, 15)]


def content(rows, seed):
    return np.random.default_rng(seed).normal(size=(rows, 6)).astype(np.float32)


class Work:
    """What the threads share; each of its methods is one turn of a thread."""

    def __init__(self, recommender, states):
        self.recommender, self.states = recommender, states
        self.vectors = recommender.embed_users(HISTORIES)
        self.coming = collections.deque(range(STAYING, N))
        self.answers, self.sent = [], collections.defaultdict(list)

    def expected(self, state, kind, number):
        if kind == "recommend":
            return requests.recommend(state, [HISTORIES[number]], k=K)
        if kind == "search":
            return requests.search(state, self.vectors[number : number + 1], k=K)
        return requests.similar(state, [number], k=K)

    def ask(self, turn, kind):
        number = turn % len(HISTORIES)
        first = len(self.states) - 1
        if kind == "recommend":
            answer = self.recommender.recommend([HISTORIES[number]], K)
        elif kind == "search":
            answer = self.recommender.search(self.vectors[number : number + 1], K)
        else:
            answer = self.recommender.similar(number, K)
        self.answers.append((kind, number, first, len(self.states), answer))

    def update(self, turn, who):
        users = [(who, turn % 5), "both"]
        items = [turn % STAYING, STAYING - 1 - who]
        if turn % 2:
            self.recommender.update(users, items)
        else:
            for user, item in zip(users, items):
                self.recommender.update(user, item)
        for user, item in zip(users, items):
            self.sent[user].append(item)
        self.recommender.recommend_user(users[0], K)

    def add(self, turn, who):
        ids = self.recommender.add(content(1 + turn % 3, 10 * turn + who))
        self.coming.extend(ids.tolist())

    def remove(self, turn, who):
        ids = [self.coming.popleft() for _ in range(min(4, len(self.coming)))]
        self.recommender.remove(ids)
        if turn % 5 == 0 and min(ids, default=N) < N:
            back = min(ids)
            self.recommender.add(content(1, turn), [back])
            self.coming.append(back)


def run(work, seconds):
    """Let the threads take turns of a few milliseconds, and give what they raised."""
    until, failures = time.monotonic() + seconds, []

    def repeated(turn_of, who):
        turn = 0
        while time.monotonic() < until and not failures:
            try:
                turn_of(turn, who)
            except Exception as error:  # a thread's own would be lost
                failures.append(error)
            turn += 1
            time.sleep(0.004)

    jobs = [(work.ask, kind) for kind in ("recommend", "search", "similar")]
    jobs += [(work.update, 0), (work.update, 1), (work.add, 0), (work.add, 1), (work.remove, 0)]
    threads = [threading.Thread(target=repeated, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def check_answers(work):
    """Each is what one of the states gives that there were while it was asked."""
    known = {}
    for kind, number, first, last, (ids, scores) in work.answers:
        for state in range(first, min(last + 1, len(work.states))):
            key = kind, number, state
            if key not in known:
                known[key] = work.expected(work.states[state], kind, number)
            if np.array_equal(ids, known[key].ids) and np.array_equal(scores, known[key].scores):
                break
        else:
            raise AssertionError(f"{kind} {number} of no state from {first} to {last}: {ids}")


def check_events(work):
    recommender = work.recommender
    for user, items in work.sent.items():
        kept = recommender._live._users[user].events.items.tolist()
        if user == "both":  # two threads': each thread's in order, none lost
            kept, items = sorted(kept), sorted(items)
        assert kept == items
        latest = recommender.update(user, 3)
        (expected,) = recommender.embed_users([recommender._live._users[user].events.items])
        np.testing.assert_allclose(latest, expected, atol=1e-5)


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.long)])
def test_eight_threads(seconds, monkeypatch):
    recommender = drawn(TINY, content(N, 0))
    recommender.warm_up(rows=4, k=K)
    states = [recommender._reader()]
    for name in ("add", "remove"):  # the states in their order: both are called by one at a time
        change = getattr(Served, name)

        def noted(served, *of, change=change, **options):
            change(served, *of, **options)
            states.append(recommender._reader())

        monkeypatch.setattr(Served, name, noted)
    work = Work(recommender, states)
    failures = run(work, seconds)
    assert not failures, failures[0]
    assert len(states) > 20 and len(work.answers) > 20 and len(work.sent) == 11
    assert len({answer.ids.tobytes() for *_, answer in work.answers}) > len(HISTORIES) * 3
    check_answers(work)
    check_events(work)
