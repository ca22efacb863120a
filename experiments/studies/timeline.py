"""Interactions day by day: who meets what on a day, and what came before it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from experiments.data.content import content_vectors
from experiments.data.interactions import Interactions
from experiments.harness.errors import InputError
from experiments.retrieval.linear_towers import Vectors
from experiments.tasks.neighbours import latest_first
from hsnn_jax.monn.scorers import unit

HISTORY = 20  # items of a history
DAY = 86_400.0


class Timeline:
    """Interactions as histories: what each user met on days before a given one."""

    def __init__(
        self, users: np.ndarray, items: np.ndarray, *, days: np.ndarray, content: np.ndarray
    ) -> None:
        """Take the events, by user and then day: int [n] each, and content [n_items, d]."""
        self.users, self.items, self.days = users, items, days
        self.content, self.num_items = content, len(content)
        keys = self._key(self.users, self.days)
        self._starts = np.searchsorted(self.users, self.users)
        self._ends = np.searchsorted(keys, keys)  # the first event of that user and day
        pairs = np.stack([self.users, self.items])
        self.repeats = np.unique(pairs, axis=1).shape[1] < len(self.users)

    @staticmethod
    def _key(users, days):
        return users.astype(np.int64) * 10**6 + days

    def user_vectors(self, events: np.ndarray) -> np.ndarray:
        """Return the mean content of up to `HISTORY` items before the day of each event."""
        parts = []
        for rows in np.array_split(events, max(1, len(events) // 4096)):
            met = latest_first(
                self.items, self._starts[rows], ends=self._ends[rows], length=HISTORY
            )
            vectors = self.content[np.maximum(met, 0)]
            parts.append((vectors * (met >= 0)[:, :, None]).sum(axis=1))
        return np.asarray(unit(jnp.asarray(np.concatenate(parts))))

    def pairs_before(self, day: int, most: int) -> Vectors:
        """Return the latest pairs of a history and an item before a day."""
        known = np.flatnonzero((self.days < day) & (self._ends > self._starts))
        known = known[np.argsort(self.days[known], kind="stable")][-most:]
        return Vectors(self.user_vectors(known), self.items[known], self.content)

    def live_on(self, day: int, expire_days: float) -> np.ndarray:
        """Return bool [n_items]: an event on that day or within the days before it."""
        recent = (self.days <= day) & (self.days >= day - expire_days)
        return np.bincount(self.items[recent], minlength=self.num_items) > 0

    def queries(
        self, day: int, *, most: int, width: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Draw users with a history who meet something on a day.

        Returns:
          (vectors [most, d], seen int [most, width], truth int [most, w], number that is real).
        """
        events = np.flatnonzero((self.days == day) & (self._ends > self._starts))
        users, first = np.unique(self.users[events], return_index=True)
        rng = np.random.default_rng([seed, int(day)])
        chosen = np.sort(rng.permutation(len(users))[:most])
        events, users = events[first[chosen]], users[chosen]
        seen = np.full((most, width), -1, np.int32)
        truth = np.full((most, 200), -1, np.int32)
        for row, (event, user) in enumerate(zip(events, users)):
            before = np.unique(self.items[self._starts[event] : self._ends[event]])
            seen[row, : len(before[:width])] = before[:width]
            own = np.unique(self.items[(self.users == user) & (self.days == day)])
            own = own if self.repeats else np.setdiff1d(own, before)
            truth[row, : len(own[:200])] = own[:200]
        vectors = np.zeros((most, self.content.shape[1]), np.float32)
        vectors[: len(events)] = self.user_vectors(events) if len(events) else 0
        return vectors, seen, truth, len(events)


def _is_met(interactions: Interactions) -> np.ndarray:
    """Return bool [n]: False for cancellations of a shop."""
    names = interactions.action_names
    if interactions.actions is None or "cancellation" not in names:
        return np.ones(interactions.n_events, bool)
    return interactions.actions != names.index("cancellation")


def make_timeline(
    interactions: Interactions, *, days: int, content_dim: int, seed: int
) -> tuple[Timeline, np.ndarray]:
    """Embed the items' content, fitted before the first of the last `days` with events.

    Returns:
      (`Timeline`, those days, int [days]).

    Raises:
      InputError: no times, no content, or too few days.
    """
    if interactions.timestamps is None:
        raise InputError(f"{interactions.name}: expected events with times, found none")
    kept = _is_met(interactions)
    day_of = np.floor(interactions.timestamps / DAY).astype(np.int64)
    every = np.unique(day_of[kept])
    if len(every) < 2 * days:
        expected = f"at least {2 * days} days with events"
        raise InputError(f"{interactions.name}: expected {expected}, found {len(every)}")
    asked = every[-days:]
    before = day_of < asked[0]
    known = np.bincount(interactions.items[before], minlength=interactions.n_items) > 0
    content, has = content_vectors(interactions, known, dim=content_dim, seed=seed)
    if not has.any():
        raise InputError(f"{interactions.name}: expected items with content, found none")
    content = np.where(has[:, None], content, 0).astype(np.float32)
    users, items = interactions.users[kept], interactions.items[kept]
    return Timeline(users, items, days=day_of[kept], content=content), asked
