"""Live users, and threads that ask while others change the catalogue, for a long time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from experiments.studies.long_runs.memory import Memory
from experiments.studies.long_runs.outcome import LongRun
from nxtpost_jax import NxtPostConfig, Recommender

ITEMS, USERS, K = 300, 40, 10
STAYING = 200  # items below are never removed
MOST_CHANGING = 50  # items of the threads that are in the catalogue at a time
LOOKS = 50
CLOSE = 1e-4  # between unit vectors of two programs
ASKING = 6  # threads


def fitted(seed: int) -> Recommender:
    """Fit a small recommender, whose items have content, to users who walk round the items."""
    rng = np.random.default_rng(seed)
    content = rng.normal(size=(ITEMS, 16)).astype(np.float32)
    start, pace = rng.integers(0, STAYING, 60), rng.integers(1, 4, 60)
    events = [[int((s + p * i) % STAYING) for i in range(10)] for s, p in zip(start, pace)]
    sizes = {"d_model": 16, "d_ff": 16, "num_layers": 1, "max_len": 16}
    recommender = Recommender(NxtPostConfig.default(**sizes, time_features=False), content)
    recommender.fit(events, epochs=1, progress=False, seed=seed)
    return recommender


def update_long(*, updates: int, seed: int) -> LongRun:
    """Add events to live users; now and then compare a vector with that of all events at once."""
    recommender, rng = fitted(seed), np.random.default_rng(seed)
    events: list[list[int]] = [[] for _ in range(USERS)]
    memory, looks, wrong = Memory(), 0, 0
    every = max(1, updates // LOOKS)
    start = time.monotonic()
    for n in range(updates):
        user, item = int(rng.integers(USERS)), int(rng.integers(ITEMS))
        events[user].append(item)
        vector = recommender.update(user, item)
        if (n + 1) % every == 0:
            looks += 1
            wrong += not np.allclose(vector, recommender.embed_users([events[user]])[0], atol=CLOSE)
            seen = recommender.recommend_user(user, K)
            wrong += bool(set(seen.ids[0].tolist()) & set(events[user]))
            memory.sample((n + 1) / updates)
    return LongRun("updates of users", updates, looks, wrong, time.monotonic() - start, memory)


def ask_long(*, seconds: float, seed: int) -> LongRun:
    """Ask from several threads while one adds and removes items and one updates users.

    Wrong is an answer with an item twice, out of order, seen, or of an id that was removed before
    the question; and a user whose vector at the end is not that of all events. An error is raised.
    """
    recommender = fitted(seed)
    work = _Threads(recommender, until=time.monotonic() + seconds, seed=seed)
    memory = Memory()
    start = time.monotonic()
    threads = [threading.Thread(target=work.ask, args=(n,)) for n in range(ASKING)]
    threads += [threading.Thread(target=turn) for turn in (work.change, work.update)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(seconds / LOOKS)
        memory.sample(min(1.0, (time.monotonic() - start) / seconds))
    spent = time.monotonic() - start
    if work.errors:
        raise work.errors[0]
    looks, lost = work.answers + len(work.events), work.lost_users()
    return LongRun("answers beside changes", work.answers, looks, work.wrong + lost, spent, memory)


class _Threads:
    """What the threads share; each method is the life of one."""

    def __init__(self, recommender: Recommender, *, until: float, seed: int):
        self.recommender, self.until, self.seed = recommender, until, seed
        self.gone: set[int] = set()  # removed for good, before a question begins
        self.answers, self.wrong = 0, 0
        self.events: dict[int, list[int]] = {}  # by user
        self.errors: list[BaseException] = []
        self._turn = threading.Lock()

    def ask(self, number: int) -> None:
        """Ask by histories of all lengths."""
        rng = np.random.default_rng([self.seed, number])

        def turn() -> None:
            history = rng.integers(0, STAYING, rng.integers(1, 20)).tolist()
            gone = set(self.gone)
            ids, scores = self.recommender.recommend(history, K)
            row = ids[0].tolist()
            bad = len(set(row)) != K or bool(set(row) & (gone | set(history)))
            bad |= bool((np.diff(scores[0]) > 0).any())
            with self._turn:
                self.answers += 1
                self.wrong += bad

        self._repeat(turn)

    def change(self) -> None:
        """Add items, and remove the oldest of those that were added."""
        rng, added = np.random.default_rng([self.seed, 100]), []

        def turn() -> None:
            content = rng.normal(size=(int(rng.integers(1, 4)), 16)).astype(np.float32)
            added.extend(self.recommender.add(content).tolist())
            while len(added) > MOST_CHANGING:
                oldest = added.pop(0)
                self.recommender.remove(oldest)
                self.gone.add(oldest)
            time.sleep(0.01)

        self._repeat(turn)

    def update(self) -> None:
        """Add events to users."""
        rng = np.random.default_rng([self.seed, 200])

        def turn() -> None:
            user, item = int(rng.integers(USERS)), int(rng.integers(STAYING))
            self.recommender.update(user, item)
            self.events.setdefault(user, []).append(item)
            time.sleep(0.01)

        self._repeat(turn)

    def lost_users(self) -> int:
        """Count the users whose answer is not that of all their events."""
        lost = 0
        for user, events in self.events.items():
            own = self.recommender.recommend_user(user, K)
            lost += not np.allclose(
                own.scores, self.recommender.recommend(events, K).scores, atol=CLOSE
            )
        return lost

    def _repeat(self, turn: Callable[[], None]) -> None:
        try:
            while time.monotonic() < self.until and not self.errors:
                turn()
        except BaseException as error:
            self.errors.append(error)
