"""Events grouped by user in time order, and padded rows of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.events.columns import (
    Moment,
    as_array,
    event_weights,
    seconds,
    whole_numbers,
)

PAD = -1
_COLUMNS = {  # per event
    "times": seconds,
    "actions": whole_numbers,
    "surfaces": whole_numbers,
    "weights": event_weights,
}
_USERS = 1_000_000  # ids up to which, or up to ten times the events, users may be sparse


@dataclasses.dataclass(frozen=True, repr=False)
class Sequences:
    """Hold the events of all users back to back, each user's in time order.

    User u owns the events `offsets[u]:offsets[u + 1]`; a user may own none.

    Attributes:
      items: int32[n_events], item ids from 0.
      offsets: int64[n_users + 1], from 0 up to n_events.
      times: float64[n_events] in seconds, or None; other forms are read by `columns.seconds`.
      actions: int32[n_events], action ids from 0, or None.
      surfaces: int32[n_events], ids from 0 of the surfaces the events came from, or None.
      static: int32[n_users, G], G categorical features a user (language, country), -1 where
        unknown, or None.
      weights: float32[n_events], how much each event counts as a label in training, or None for
        all alike; no request reads them.

    Raises:
      ValueError: lengths disagree, offsets do not cover the events, an id is no whole number from
        0 to 2^31 - 1, or a time is none that `columns.seconds` reads.
    """

    items: np.ndarray
    offsets: np.ndarray
    times: np.ndarray | None = None
    actions: np.ndarray | None = None
    surfaces: np.ndarray | None = None
    static: np.ndarray | None = None
    weights: np.ndarray | None = None

    def __post_init__(self):
        for name, read in ({"items": whole_numbers, "offsets": _offsets} | _COLUMNS).items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, read(name, value))
        _check_offsets(self.offsets, len(self.items))
        for name in _COLUMNS:
            value = getattr(self, name)
            if value is not None and len(value) != len(self.items):
                raise ValueError(
                    f"{name}: expected {len(self.items)} values, one per event, found {len(value)}"
                )
        if self.static is not None:
            object.__setattr__(self, "static", _checked_static(self.static, len(self)))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        columns = [name for name in (*_COLUMNS, "static") if getattr(self, name) is not None]
        parts = [f"{len(self):,} users", f"{len(self.items):,} events", *columns]
        return f"Sequences({', '.join(parts)})"

    def __getitem__(self, user: int) -> np.ndarray:
        if not 0 <= user < len(self):
            raise IndexError(f"user: expected 0 to {len(self) - 1}, found {user}")
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Count each user's events: int64[n_users]."""
        return np.diff(self.offsets)

    def owners(self, events: np.ndarray) -> np.ndarray:
        """Find the users that own the events at some positions of the log: int64[...]."""
        return np.searchsorted(self.offsets, events, side="right") - 1

    @classmethod
    def from_events(
        cls,
        users: ArrayLike,
        items: ArrayLike,
        *,
        times: ArrayLike | Sequence[Moment] | None = None,
        order: ArrayLike | None = None,
        actions: ArrayLike | None = None,
        surfaces: ArrayLike | None = None,
        static: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        num_users: int | None = None,
    ) -> Sequences:
        """Group a flat log by user and sort each user's events; ties keep their input order.

        Floats that are whole count as integers.

        Args:
          users: int[n_events], user ids from 0: users 0 to the largest id are made, so an id that
            does not occur is a user without events, and one event of user 5 makes six users.
          items: int[n_events], item ids from 0.
          times: float[n_events] in seconds since 1970, or whatever else `columns.seconds` reads,
            such as datetimes; sorts the events unless `order` is given.
          order: number[n_events], sorts the events instead of `times`.
          actions: int[n_events], action ids from 0.
          surfaces: int[n_events], surface ids from 0.
          static: int[n_users, G], categorical features a user, -1 where unknown.
          weights: float[n_events], how much each counts as a label, from 0.
          num_users: number of users; the largest id + 1 when None.

        Raises:
          ValueError: lengths disagree, an id is no whole number from 0 to 2^31 - 1, the largest
            user id is a million or more and ten times the number of events or more while
            `num_users` is None (sparse ids, such as hashes), times look like milliseconds,
            microseconds or nanoseconds, or a sort key is not finite.
        """
        users = whole_numbers("users", users)
        items = whole_numbers("items", items)
        times = None if times is None else seconds("times", times)
        key = times if order is None else _sort_key(order)
        columns = {"times": times, "actions": actions, "surfaces": surfaces, "weights": weights}
        for name, value in ({"items": items, "order": order} | columns).items():
            if value is not None and len(value) != len(users):
                raise ValueError(f"{name}: expected {len(users)} values, found {len(value)}")
        static = None if static is None else as_array("static", static)
        num_users = _user_count(users, num_users)
        if key is not None and not np.isfinite(key).all():
            name = "times" if order is None else "order"
            raise ValueError(f"{name}: expected finite numbers, found NaN or infinity")
        # Both sorts are stable: equal keys keep their input order.
        by = np.argsort(users, kind="stable") if key is None else np.lexsort((key, users))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=num_users))])
        return cls(items[by], offsets, static=static, **_gathered(columns, by))

    def ranges(
        self, starts: ArrayLike, stops: ArrayLike, *, users: np.ndarray | None = None
    ) -> Sequences:
        """Cut out the event ranges `starts[i]:stops[i]`, each one sequence of the result.

        Args:
          starts, stops: int[n], positions in the log, a range within one user.
          users: int[n], the ranges' users, whose static features they keep; read from the
            events when None, which needs every range to have one.

        Raises:
          ValueError: there are static features, `users` is None and a range is empty.
        """
        starts = np.asarray(starts, np.int64)
        lengths = np.asarray(stops, np.int64) - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        index = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        columns = _gathered({name: getattr(self, name) for name in _COLUMNS}, index)
        static = None
        if self.static is not None:
            if users is None:
                if not lengths.all():
                    raise ValueError("users: expected the users of empty ranges, found None")
                users = self.owners(starts)
            static = self.static[users]
        return Sequences(self.items[index], offsets, static=static, **columns)

    def select(self, rows: np.ndarray) -> Sequences:
        """Take the sequences of some users, in the order given."""
        rows = np.arange(len(self))[rows]
        return self.ranges(self.offsets[:-1][rows], self.offsets[1:][rows], users=rows)


def pad_histories(sequences: Sequences, max_len: int) -> dict[str, np.ndarray]:
    """Lay out each sequence's last `max_len` events as a row, left-aligned.

    Column 0 holds the oldest event kept and PAD fills the end: a causal model then never sees
    padding from a real position, and a row is the same whatever the width of its batch.

    Returns:
      items: int32[B, L] with PAD at the end.
      times: float32[B, L], seconds since the row's previous event, 0 at its first and at PAD;
        only if the sequences have times. No time of a later event, such as the one to be
        predicted, can enter.
      actions, surfaces: int32[B, L], 0 at PAD; only if the sequences have them.
      static: int32[B, G]; only if the sequences have static features.
    """
    if max_len < 1:
        raise ValueError(f"max_len: expected at least 1, found {max_len}")
    lengths = np.minimum(sequences.lengths, max_len)
    index_BxL, valid_BxL = window_index(sequences.offsets[1:] - lengths, lengths, max_len)
    log = sequences if len(sequences.items) else _with_an_event(sequences)
    rows = gather_rows(log, index_BxL, valid_BxL)
    return rows if sequences.static is None else rows | {"static": sequences.static}


def window_index(
    starts: np.ndarray, lengths: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Index windows of consecutive events as left-aligned rows.

    Returns:
      index: int64[B, L], an event's position in the log, 0 where there is none.
      valid: bool[B, L], whether there is one.
    """
    columns = np.arange(width)
    valid_BxL = columns[None, :] < lengths[:, None]
    return np.where(valid_BxL, starts[:, None] + columns[None, :], 0), valid_BxL


def gather_rows(
    sequences: Sequences, index_BxL: np.ndarray, valid_BxL: np.ndarray
) -> dict[str, np.ndarray]:
    """Gather the rows of `pad_histories` at the events that `window_index` gave.

    The static features of a row without events are unknown here, -1.
    """
    rows = {"items": np.where(valid_BxL, sequences.items[index_BxL], np.int32(PAD))}
    if sequences.times is not None:
        times_BxL = sequences.times[index_BxL]
        gaps_BxL = np.diff(times_BxL, axis=1, prepend=times_BxL[:, :1])
        rows["times"] = np.where(valid_BxL, gaps_BxL, 0).astype(np.float32)
    for name in ("actions", "surfaces"):
        column = getattr(sequences, name)
        if column is not None:
            rows[name] = np.where(valid_BxL, column[index_BxL], np.int32(0))
    if sequences.static is not None:
        static_BxG = sequences.static[sequences.owners(index_BxL[:, 0])]
        rows["static"] = np.where(valid_BxL[:, :1], static_BxG, np.int32(-1))
    return rows


def _with_an_event(sequences: Sequences) -> Sequences:
    """Give an empty log one event that no user owns, for masked gathers to read."""
    zero = np.zeros(1)
    columns = {name: None if getattr(sequences, name) is None else zero for name in _COLUMNS}
    return Sequences(zero, np.array([0, 1]), **columns)


def _gathered(columns: dict, index: np.ndarray) -> dict:
    return {
        name: None if value is None else np.asarray(value)[index] for name, value in columns.items()
    }


def _checked_static(static, num_users: int) -> np.ndarray:
    static = whole_numbers("static", static, lowest=-1, ndim=2)  # -1 is unknown
    if len(static) != num_users:
        raise ValueError(
            f"static: expected shape [{num_users}, G], one row per user, found {list(static.shape)}"
        )
    return static


def _offsets(name: str, value) -> np.ndarray:
    return whole_numbers(name, value, highest=np.iinfo(np.int64).max, dtype=np.int64)


def _sort_key(order) -> np.ndarray:
    order = as_array("order", order)
    if order.ndim != 1 or (order.size and order.dtype.kind not in "iuf"):
        raise ValueError(f"order: expected numbers, found {order.dtype}{list(order.shape)}")
    return order


def _check_offsets(offsets: np.ndarray, num_events: int) -> None:
    if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != num_events:
        raise ValueError(f"offsets: expected to run from 0 to {num_events}, found {offsets}")
    back = np.flatnonzero(np.diff(offsets) < 0)
    if len(back):
        found = f"{offsets[back[0] + 1]} after {offsets[back[0]]}"
        raise ValueError(f"offsets: expected never to decrease, found {found}")


def _user_count(users: np.ndarray, num_users: int | None) -> int:
    needed = int(users.max()) + 1 if len(users) else 0
    if num_users is None:
        limit = max(_USERS, 10 * len(users))
        if needed > limit:
            raise ValueError(
                f"users: expected ids below {limit} for {len(users)} events "
                "(np.unique(users, return_inverse=True)[1] makes dense ones, num_users allows "
                f"sparse ones), found {needed - 1}"
            )
        return needed
    if num_users < needed:
        raise ValueError(f"num_users: expected at least {needed}, found {num_users}")
    return num_users
