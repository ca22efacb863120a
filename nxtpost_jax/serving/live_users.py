"""Users whose vectors follow their events one by one, each with a KV cache of its own.

A user's vector always equals that of the full forward over the events so far (tested to 1e-5).
An event costs one position of the user tower where the cache can go on: what the model read
before is still the beginning of what it reads now, and no more than max_len events. Else (a full
cache, a removed item, an item that came back, a backfill that shrinks as events come, parameters of
another fit) the events are read anew.

Users of one call are read together. The caller's events are kept in host memory, the caches in
device memory: 4 (2 layers + 1) max_len d_model bytes a user; `forget` frees both. Calls from
several threads take turns.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nxtpost_jax.events.checks import check_times
from nxtpost_jax.events.columns import Moment, seconds, whole_numbers
from nxtpost_jax.events.sequences import Sequences, pad_histories
from nxtpost_jax.serving import histories as given_histories
from nxtpost_jax.serving.histories import Histories
from nxtpost_jax.serving.programs import power_of_two, vectors_at
from nxtpost_jax.serving.reading import Reader
from nxtpost_jax.serving.streaming import Cache, extend, joined, parted, prefill

MOST_USERS = 32  # a compiled call, each with a cache of its own
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
        users: Sequence[Hashable],
        events: Sequence[Event],
        *,
        take: Callable[[], Reader],
        history: Histories | None = None,
    ) -> np.ndarray:
        """Add events and give their users' vectors, f32[B, D]; nothing changes where it raises.

        Args:
          users, events: who engaged with what, B each; a user's own events in their order.
          take: gives parameters and catalogue, called when it is this call's turn: so they know
            every item of the events that earlier calls have added.
          history: one sequence, the events before; for a single user who is new here.
        """
        with self._lock:
            reader = take()
            numbered = [_numbered(event, reader) for event in events]
            reader.catalogue.slots("event", [event.item for event in numbered])
            longer: dict[Hashable, Sequences] = {}
            for user, event in zip(users, numbered):
                if user not in longer:
                    longer[user] = self._start(user, history, reader)
                longer[user] = _appended(longer[user], event)
            vectors = self._read(longer, reader)
            if reader.state.trending is not None:
                items, times = _counted(numbered)
                reader.state.trending.trends.add(items, times)
            return np.stack([vectors[user] for user in users])

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
            reader, events = take(), self._users[user].events
            return self._read({user: events}, reader)[user], events, reader

    def _read(
        self, given: Mapping[Hashable, Sequences], reader: Reader
    ) -> dict[Hashable, np.ndarray]:
        """Keep the events of some users, and give the vectors f32[D] of what is read of them."""
        read = {
            user: reader.prepared("history", reader.checked("history", events))
            for user, events in given.items()
        }
        max_len = reader.model.config.max_len
        done, onward, anew = {}, {}, []
        for user in given:
            computed = self._still_true(user, read[user], reader)
            new = None if computed is None else len(read[user].items) - len(computed.read.items)
            if computed is not None and new == 0:
                done[user] = computed
            elif computed is not None and new == 1 and len(read[user].items) <= max_len:
                onward[user] = computed.cache
                # `extend` takes the cache away, whether it succeeds or not
                self._users[user] = _User(self._users[user].events)
            else:
                anew.append(user)
        found: dict[Hashable, tuple[np.ndarray, Cache]] = {}
        for part in _parts(anew):
            found |= zip(part, _prefilled([read[user] for user in part], reader))
        for part in _parts(list(onward)):
            caches = [onward[user] for user in part]
            found |= zip(part, _extended(caches, [read[user] for user in part], reader))
        for user, (vector, cache) in found.items():
            done[user] = _Computed(vector, read[user], cache, reader.version)
        for user, events in given.items():
            self._users[user] = _User(events, done[user])
        return {user: done[user].vector for user in given}

    def _still_true(self, user: Hashable, read: Sequences, reader: Reader) -> _Computed | None:
        """Give what was computed if it is of these parameters and of the beginning of `read`."""
        computed = self._users[user].computed if user in self._users else None
        if computed is None or computed.version != reader.version:
            return None
        return computed if _begins_with(read, computed.read) else None

    def _start(self, user: Hashable, history: Histories | None, reader: Reader) -> Sequences:
        if user in self._users:
            if history is not None:
                raise ValueError(f"history: expected none for user {user!r}, found a second one")
            return self._users[user].events
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
        return events


def pairs(user: Any, event: Any, history: Any) -> tuple[list[Hashable], list[Event]]:
    """Read who engaged with what: one user and event, or lists of as many of each.

    Raises:
      ValueError: the lists are empty or of unlike lengths, or there is a history beside them.
    """
    if not isinstance(user, list):
        user, event = [user], [event]
    elif history is not None:
        raise ValueError("history: expected None beside a list of users, found some")
    elif not isinstance(event, (list, np.ndarray)) or len(event) != len(user) or not user:
        found = f"{len(event)} of {len(user)}" if hasattr(event, "__len__") else repr(event)
        raise ValueError(f"event: expected a list, one event per user, found {found:.60}")
    return user, [each if isinstance(each, Event) else Event(each) for each in event]


def _parts(users: list[Hashable]) -> Iterator[list[Hashable]]:
    """Split users into calls."""
    for first in range(0, len(users), MOST_USERS):
        yield users[first : first + MOST_USERS]


def _numbered(event: Event, reader: Reader) -> Event:
    """Put numbers in the place of the caller's names."""
    (item,) = reader.catalogue.read("event", [event.item])
    action, names = event.action, reader.start.actions
    if action is not None and names is not None:
        (action,) = names.codes("event", [action])
        if action < 0:
            raise ValueError(f"event: expected an action of training, found {event.action!r:.60}")
    return dataclasses.replace(event, item=item, action=action)


def _counted(events: Sequence[Event]) -> tuple[np.ndarray, np.ndarray]:
    """Give items int32[n] and times float64[n], NaN where there is none, as trends count them."""
    items = np.array([event.item for event in events], np.int32)
    given = [None if event.time is None else seconds("event", [event.time])[0] for event in events]
    return items, np.array([np.nan if time is None else time for time in given])


def _extended(
    caches: list[Cache], read: list[Sequences], reader: Reader
) -> list[tuple[np.ndarray, Cache]]:
    """Read one event more of each user; caches of other sizes than one call are padded."""
    rows = _padded(len(read))
    features = [_features(reader.in_slots(read[row])) for row in rows]
    last = reader.catalogue.find(np.array([read[row].items[-1] for row in rows]))
    cache, vectors_BxD = extend(
        reader.model,
        reader.params,
        cache=caches[0] if len(rows) == 1 else joined([caches[row] for row in rows]),
        item_vectors_BxD=vectors_at(reader.catalogue.items, last),
        features={name: np.concatenate([each[name] for each in features]) for name in features[0]},
    )
    return _each(vectors_BxD, cache, len(read))


def _prefilled(read: list[Sequences], reader: Reader) -> list[tuple[np.ndarray, Cache]]:
    """Read whole histories."""
    max_len = reader.model.config.max_len
    each = [pad_histories(reader.in_slots(read[row]), max_len) for row in _padded(len(read))]
    rows = {name: np.concatenate([one[name] for one in each]) for name in each[0]}
    vectors_BxLxD = vectors_at(reader.catalogue.items, rows["items"])
    cache, vectors_BxD = prefill(
        reader.model, reader.params, histories=rows, item_vectors_BxLxD=vectors_BxLxD
    )
    return _each(vectors_BxD, cache, len(read))


def _each(vectors_BxD, cache: Cache, count: int) -> list[tuple[np.ndarray, Cache]]:
    caches = [cache] if len(vectors_BxD) == 1 else parted(cache)
    return list(zip(np.asarray(vectors_BxD), caches))[:count]


def _padded(count: int) -> np.ndarray:
    return np.resize(np.arange(count), power_of_two(count))


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
