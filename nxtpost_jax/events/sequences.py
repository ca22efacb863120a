"""Events grouped by user in time order, and padded rows of them."""

from __future__ import annotations

import dataclasses

import numpy as np

PAD = -1
_COLUMNS = {"times": np.float64, "actions": np.int32, "surfaces": np.int32}  # one value an event


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Hold the events of all users back to back, each user's in time order.

    User u owns the events `offsets[u]:offsets[u + 1]`; a user may own none.

    Attributes:
      items: int32[n_events], item ids from 0.
      offsets: int64[n_users + 1], from 0 up to n_events.
      times: float64[n_events] in seconds, or None.
      actions: int32[n_events], action ids from 0, or None.
      surfaces: int32[n_events], ids from 0 of the surfaces the events came from, or None.
      static: int32[n_users, G], G categorical features a user (language, country), -1 where
        unknown, or None.

    Raises:
      ValueError: lengths disagree, offsets do not cover the events, or an id is negative.
    """

    items: np.ndarray
    offsets: np.ndarray
    times: np.ndarray | None = None
    actions: np.ndarray | None = None
    surfaces: np.ndarray | None = None
    static: np.ndarray | None = None

    def __post_init__(self):
        for name, dtype in ({"items": np.int32, "offsets": np.int64} | _COLUMNS).items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _one_dimensional(name, value, dtype))
        _check_offsets(self.offsets, len(self.items))
        for name in _COLUMNS:
            value = getattr(self, name)
            if value is not None and len(value) != len(self.items):
                raise ValueError(
                    f"{name}: expected {len(self.items)} values, one an event, found {len(value)}"
                )
        for name in ("items", "actions", "surfaces"):
            if getattr(self, name) is not None:
                _check_ids(name, getattr(self, name))
        if self.static is not None:
            object.__setattr__(self, "static", _checked_static(self.static, len(self)))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, user: int) -> np.ndarray:
        if not 0 <= user < len(self):
            raise IndexError(f"user {user}: expected 0 <= user < {len(self)}")
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
        users,
        items,
        *,
        times=None,
        order=None,
        actions=None,
        surfaces=None,
        static=None,
        num_users: int | None = None,
    ) -> Sequences:
        """Group a flat log by user and sort each user's events; ties keep their input order.

        Args:
          users: int[n_events], user ids from 0.
          items: int[n_events], item ids from 0.
          times: float[n_events] in seconds; sorts the events unless `order` is given.
          order: number[n_events], sorts the events instead of `times`.
          actions: int[n_events], action ids from 0.
          surfaces: int[n_events], surface ids from 0.
          static: int[n_users, G], categorical features a user, -1 where unknown.
          num_users: number of users; the largest id + 1 when None.

        Raises:
          ValueError: lengths disagree, an id is out of range, or a sort key is not finite.
        """
        users = _one_dimensional("users", users, np.int64)
        items = _one_dimensional("items", items, np.int32)
        key = times if order is None else order
        columns = {"times": times, "actions": actions, "surfaces": surfaces}
        for name, value in ({"items": items, "order": order} | columns).items():
            if value is not None and len(value) != len(users):
                raise ValueError(f"{name}: expected {len(users)} values, found {len(value)}")
        num_users = _user_count(users, num_users)
        if key is not None and not np.isfinite(np.asarray(key, np.float64)).all():
            raise ValueError("times or order: expected finite numbers, found NaN or infinity")
        # Both sorts are stable: equal keys keep their input order.
        by = np.argsort(users, kind="stable") if key is None else np.lexsort((key, users))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=num_users))])
        return cls(items[by], offsets, static=static, **_gathered(columns, by))

    def ranges(self, starts: np.ndarray, stops: np.ndarray, users=None) -> Sequences:
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
        return self.ranges(self.offsets[:-1][rows], self.offsets[1:][rows], rows)


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


def window_index(starts: np.ndarray, lengths: np.ndarray, width: int):
    """Index windows of consecutive events as left-aligned rows.

    Returns:
      index: int64[B, L], an event's position in the log, 0 where there is none.
      valid: bool[B, L], whether there is one.
    """
    columns = np.arange(width)
    valid_BxL = columns[None, :] < lengths[:, None]
    return np.where(valid_BxL, starts[:, None] + columns[None, :], 0), valid_BxL


def gather_rows(sequences: Sequences, index_BxL, valid_BxL) -> dict[str, np.ndarray]:
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
    static = np.asarray(static)
    if static.ndim != 2 or len(static) != num_users:
        raise ValueError(
            f"static: expected shape [{num_users}, G], one row a user, found {static.shape}"
        )
    if static.size and static.min() < -1:
        raise ValueError(f"static: expected ids from 0 or -1 for unknown, found {static.min()}")
    return np.ascontiguousarray(static, np.int32)


def _one_dimensional(name: str, value, dtype) -> np.ndarray:
    value = np.asarray(value)
    if value.ndim != 1:
        raise ValueError(f"{name}: expected one dimension, found shape {value.shape}")
    return np.ascontiguousarray(value, dtype)


def _check_offsets(offsets: np.ndarray, num_events: int) -> None:
    if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != num_events:
        raise ValueError(f"offsets: expected to run from 0 to {num_events}, found {offsets}")
    if (np.diff(offsets) < 0).any():
        raise ValueError("offsets: expected never to decrease")


def _check_ids(name: str, ids: np.ndarray) -> None:
    if len(ids) and ids.min() < 0:
        raise ValueError(f"{name}: expected ids from 0, found {ids.min()}")


def _user_count(users: np.ndarray, num_users: int | None) -> int:
    _check_ids("users", users)
    needed = int(users.max()) + 1 if len(users) else 0
    if num_users is not None and num_users < needed:
        raise ValueError(f"num_users: expected at least {needed}, found {num_users}")
    return needed if num_users is None else num_users
