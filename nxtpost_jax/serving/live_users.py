"""Users whose vectors follow their events one by one, each with a KV cache of its own.

A user's vector always equals that of the full forward over the events so far (tested to 1e-5).
An event costs one position of the user tower where the cache can go on: what the model read
before is still the beginning of what it reads now, and no more than max_len events. Else (a full
cache, a removed item, a backfill that shrinks as events come) the events are read anew.

The caller's events are kept in host memory, the caches in device memory: 4 (2 layers + 1) max_len
d_model bytes a user; `forget` frees both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable

import numpy as np

from nxtpost_jax.events.checks import as_sequences, check_times, item_ids
from nxtpost_jax.events.sequences import Sequences, pad_histories
from nxtpost_jax.serving.streaming import Cache, extend, prefill

_COLUMNS = {"times": "time", "actions": "action", "surfaces": "surface"}


@dataclasses.dataclass(frozen=True)
class Event:
    """Say what a user engaged with.

    Attributes:
      item: id.
      time: seconds, no earlier than the user's last event; None if the model reads no times.
      action, surface: ids, None if the model reads none.
    """

    item: int
    time: float | None = None
    action: int | None = None
    surface: int | None = None


@dataclasses.dataclass
class _User:
    events: Sequences  # one sequence, as the caller gave it
    vector: np.ndarray | None = None  # f32[D]
    read: Sequences | None = None  # what `cache` holds, in ids
    cache: Cache | None = None


class LiveUsers:
    """Keep users' events, vectors and caches."""

    def __init__(self, model, params):
        self._model, self._params = model, params
        self._users: dict[Hashable, _User] = {}

    def __contains__(self, user: Hashable) -> bool:
        return user in self._users

    def __len__(self) -> int:
        return len(self._users)

    def forget(self, user: Hashable) -> None:
        """Drop what is kept of a user; one who is unknown is fine."""
        self._users.pop(user, None)

    def read_anew(self) -> None:
        """Drop all caches but no events: an item's vector has changed."""
        for user in self._users.values():
            user.read = user.cache = None

    def events(self, user: Hashable) -> Sequences:
        """Give a user's events as one sequence.

        Raises:
          ValueError: the user is unknown.
        """
        if user not in self._users:
            raise ValueError(f"user: expected one that update was called for, found {user!r}")
        return self._users[user].events

    def update(
        self,
        user: Hashable,
        event: Event | None,
        *,
        history: Sequences | None,
        prepare: Callable[[Sequences], Sequences],
        find: Callable[[np.ndarray], np.ndarray],
        vectors_SxD,
    ) -> np.ndarray:
        """Add an event and give the user's vector, f32[D]; nothing changes where it raises.

        Args:
          user, event: who engaged with what; no event brings the vector up to date only.
          history: one sequence, the events before; for a user who is new here.
          prepare: checks, filters and backfills a user's events.
          find: from the ids that `prepare` leaves to rows of `vectors_SxD`.
          vectors_SxD: f32[S, D], the items' vectors.
        """
        state = self._start(user, history)
        events = state.events if event is None else _appended(state.events, event)
        read = prepare(events)
        known = None if state.read is None else len(state.read.items)
        if known is not None and _begins_with(read, state.read) and len(read.items) == known:
            vector, cache = state.vector, state.cache
        elif self._goes_on(state, read):
            row = find(read.items[-1:])
            cache, users_1xD = extend(
                self._model, self._params, state.cache, vectors_SxD[row], _features(read)
            )
            vector = np.asarray(users_1xD)[0]
        else:
            latest = dataclasses.replace(read, items=find(read.items))
            rows = pad_histories(latest, self._model.config.max_len)
            taken = np.maximum(rows["items"], 0)
            cache, users_1xD = prefill(self._model, self._params, rows, vectors_SxD[taken])
            vector = np.asarray(users_1xD)[0]
        self._users[user] = _User(events, vector, read, cache)
        return vector

    def _start(self, user, history) -> _User:
        if user in self._users:
            if history is not None:
                raise ValueError(f"history: expected none, user {user!r} has one already")
            return self._users[user]
        events = as_sequences("history", [[]] if history is None else history)
        if len(events) != 1:
            raise ValueError(f"history: expected that of one user, found {len(events)}")
        return _User(events)

    def _goes_on(self, state: _User, read: Sequences) -> bool:
        if state.read is None:
            return False
        count = len(state.read.items)
        grown_by_one = len(read.items) == count + 1 and count < self._model.config.max_len
        return grown_by_one and _begins_with(read, state.read)


def _appended(events: Sequences, event: Event) -> Sequences:
    columns = {}
    for name, field in _COLUMNS.items():
        value, column = getattr(event, field), getattr(events, name)
        if len(events.items) and (value is None) != (column is None):
            expected = "none, as before" if column is None else "one, as before"
            raise ValueError(f"event: expected {field} to be {expected}, found {value}")
        if value is not None:
            column = np.zeros(0) if column is None else column
            columns[name] = np.append(column, value)
    items = np.append(events.items, item_ids("event", [event.item]))
    appended = Sequences(items, [0, len(items)], static=events.static, **columns)
    check_times("event", appended)
    return appended


def _begins_with(longer: Sequences, shorter: Sequences) -> bool:
    count = len(shorter.items)
    return all(
        getattr(shorter, name) is None
        or not count
        or np.array_equal(getattr(longer, name)[:count], getattr(shorter, name))
        for name in ("items", *_COLUMNS)
    )


def _features(read: Sequences) -> dict[str, np.ndarray]:
    """Lay out the last event as `streaming.extend` reads it."""
    row = pad_histories(
        read.ranges([max(len(read.items) - 2, 0)], read.offsets[1:], [0]), min(len(read.items), 2)
    )
    return {
        name: value if name == "static" else value[:, -1]
        for name, value in row.items()
        if name != "items"
    }
