"""Users whose vectors follow their events one by one, each with a KV cache of its own.

A user's vector always equals that of the full forward over the events so far (tested to 1e-5).
An event costs one position of the user tower where the cache can go on: what the model read
before is still the beginning of what it reads now, and no more than max_len events. Else (a full
cache, a removed item, an item that came back, a backfill that shrinks as events come, parameters of
another fit) the events are read anew.

The caller's events are kept in host memory, the caches in device memory: 4 (2 layers + 1) max_len
d_model bytes a user; `forget` frees both. Calls from several threads take turns.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np

from nxtpost_jax.events.checks import check_times
from nxtpost_jax.events.columns import Moment, seconds, whole_numbers
from nxtpost_jax.events.sequences import Sequences, pad_histories
from nxtpost_jax.serving import histories as given_histories
from nxtpost_jax.serving.histories import Histories
from nxtpost_jax.serving.programs import vectors_at
from nxtpost_jax.serving.reading import Reader
from nxtpost_jax.serving.streaming import Cache, extend, prefill

_COLUMNS = {"times": "time", "actions": "action", "surfaces": "surface"}


@dataclasses.dataclass(frozen=True)
class Event:
    """Say what a user engaged with.

    Attributes:
      item: its id, as everywhere.
      time: seconds since 1970, or a datetime, no earlier than the user's last event; None if the
        model reads no times.
      action: its number, or its name where a table had names; None if the model reads none.
      surface: its number, None if the model reads none.
    """

    item: Any
    time: Moment | None = None
    action: Any = None
    surface: int | None = None


@dataclasses.dataclass(frozen=True)
class _Computed:
    vector: np.ndarray  # f32[D]
    read: Sequences  # what `cache` holds, in ids
    cache: Cache
    version: tuple[int, int]  # of the parameters and vectors behind vector and cache


@dataclasses.dataclass
class _User:
    events: Sequences  # one sequence, as the caller gave it
    computed: _Computed | None = None


class LiveUsers:
    """Keep users' events, vectors and caches."""

    def __init__(self):
        self._users: dict[Hashable, _User] = {}
        self._lock = threading.Lock()  # a user's cache is donated: no two calls may hold it

    def __contains__(self, user: Hashable) -> bool:
        return user in self._users

    def __len__(self) -> int:
        return len(self._users)

    def kept(self) -> dict[Hashable, Sequences]:
        """List the users with their events, one sequence each."""
        with self._lock:
            return {name: user.events for name, user in self._users.items()}

    @classmethod
    def of(cls, kept: Mapping[Hashable, Sequences]) -> LiveUsers:
        """Go on with users of `kept`; their vectors are computed when they are asked for."""
        users = cls()
        users._users = {name: _User(events) for name, events in kept.items()}
        return users

    def forget(self, user: Hashable) -> None:
        """Drop what is kept of a user; one who is unknown is fine."""
        with self._lock:
            self._users.pop(user, None)

    def add(
        self,
        user: Hashable,
        event: Event,
        *,
        take: Callable[[], Reader],
        history: Histories | None = None,
    ) -> np.ndarray:
        """Add an event and give the user's vector, f32[D]; nothing changes where it raises.

        Args:
          user, event: who engaged with what.
          take: gives parameters and catalogue, called when it is this call's turn: so they know
            every item of the events that earlier calls have added.
          history: one sequence, the events before; for a user who is new here.
        """
        with self._lock:
            reader = take()
            event = _numbered(event, reader)
            reader.catalogue.slots("event", [event.item])
            state = self._start(user, history, reader)
            return self._read(user, state, _appended(state.events, event), reader)

    def current(
        self, user: Hashable, *, take: Callable[[], Reader]
    ) -> tuple[np.ndarray, Sequences, Reader]:
        """Give a user's vector f32[D], the events as one sequence, and the reader it is under.

        Raises:
          ValueError: the user is unknown.
        """
        with self._lock:
            if user not in self._users:
                raise ValueError(f"user: expected one that update was called for, found {user!r}")
            reader, state = take(), self._users[user]
            return self._read(user, state, state.events, reader), state.events, reader

    def _read(self, user, state: _User, events: Sequences, reader: Reader) -> np.ndarray:
        read = reader.prepared("history", reader.checked("history", events))
        before = _still_true(state.computed, read, reader)
        new = None if before is None else len(read.items) - len(before.read.items)
        if before is not None and new == 0:
            vector, cache = before.vector, before.cache
        elif before is not None and new == 1 and len(read.items) <= reader.model.config.max_len:
            if user in self._users:  # `extend` takes the cache away, whether it succeeds or not
                self._users[user] = _User(state.events)
            vector, cache = _extended(before.cache, read, reader)
        else:
            vector, cache = _prefilled(read, reader)
        self._users[user] = _User(events, _Computed(vector, read, cache, reader.version))
        return vector

    def _start(self, user, history, reader: Reader) -> _User:
        if user in self._users:
            if history is not None:
                raise ValueError(f"history: expected none for user {user!r}, found a second one")
            return self._users[user]
        given = given_histories.read(
            "history",
            [[]] if history is None else history,
            start=reader.start,
            catalogue=reader.catalogue,
            unknown="refuse",
        )
        events = given.sequences
        if len(events) != 1:
            raise ValueError(f"history: expected that of one user, found {len(events)}")
        return _User(events)


def _numbered(event: Event, reader: Reader) -> Event:
    """Put numbers in the place of the caller's names."""
    (item,) = reader.catalogue.read("event", [event.item])
    action, names = event.action, reader.start.actions
    if action is not None and names is not None:
        (action,) = names.codes("event", [action])
        if action < 0:
            raise ValueError(f"event: expected an action of training, found {event.action!r:.60}")
    return dataclasses.replace(event, item=item, action=action)


def _still_true(computed: _Computed | None, read: Sequences, reader: Reader) -> _Computed | None:
    """Give what was computed if it is of these parameters and of the beginning of `read`."""
    if computed is None or computed.version != reader.version:
        return None
    return computed if _begins_with(read, computed.read) else None


def _extended(cache: Cache, read: Sequences, reader: Reader) -> tuple[np.ndarray, Cache]:
    cache, users_1xD = extend(
        reader.model,
        reader.params,
        cache=cache,
        item_vectors_BxD=vectors_at(reader.catalogue.items, reader.catalogue.find(read.items[-1:])),
        features=_features(reader.in_slots(read)),
    )
    return np.asarray(users_1xD)[0], cache


def _prefilled(read: Sequences, reader: Reader) -> tuple[np.ndarray, Cache]:
    rows = pad_histories(reader.in_slots(read), reader.model.config.max_len)
    vectors_1xLxD = vectors_at(reader.catalogue.items, rows["items"])
    cache, users_1xD = prefill(
        reader.model, reader.params, histories=rows, item_vectors_BxLxD=vectors_1xLxD
    )
    return np.asarray(users_1xD)[0], cache


def _appended(events: Sequences, event: Event) -> Sequences:
    columns = {}
    for name, field in _COLUMNS.items():
        value, column = getattr(event, field), getattr(events, name)
        if len(events.items) and (value is None) != (column is None):
            expected = "none, as before" if column is None else "one, as before"
            raise ValueError(f"event: expected {field} to be {expected}, found {value}")
        if value is not None:
            column = np.zeros(0) if column is None else column
            read = seconds if name == "times" else whole_numbers
            columns[name] = np.append(column, read("event", [value]))
    items = np.append(events.items, whole_numbers("event", [event.item]))
    appended = Sequences(items, np.array([0, len(items)]), static=events.static, **columns)
    check_times("event", appended)
    return appended


def _begins_with(longer: Sequences, shorter: Sequences) -> bool:
    count = len(shorter.items)
    return len(longer.items) >= count and all(
        getattr(shorter, name) is None
        or not count
        or np.array_equal(getattr(longer, name)[:count], getattr(shorter, name))
        for name in ("items", *_COLUMNS)
    )


def _features(read: Sequences) -> dict[str, np.ndarray]:
    """Lay out the last event as `streaming.extend` reads it."""
    row = pad_histories(
        read.ranges([max(len(read.items) - 2, 0)], read.offsets[1:], users=np.zeros(1, int)),
        min(len(read.items), 2),
    )
    return {
        name: value if name == "static" else value[:, -1]
        for name, value in row.items()
        if name != "items"
    }
