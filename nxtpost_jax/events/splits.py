"""Splits into training sequences and queries, without leakage between them.

A history holds only events before its target, and the training part nothing from a user's first
validation target on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.events.checks import check_times, item_ids
from nxtpost_jax.events.columns import Moment, seconds, whole_numbers
from nxtpost_jax.events.filters import keep_events
from nxtpost_jax.events.sequences import PAD, Sequences, window_index


@dataclasses.dataclass(frozen=True, repr=False)
class Queries:
    """Hold histories and the event that followed each.

    Attributes:
      histories: one sequence a query; nothing from the target's event on is in it.
      targets: int32[q], the item that followed.
      users: int32[q], the user asked about.
    """

    histories: Sequences
    targets: np.ndarray
    users: np.ndarray

    def __post_init__(self):
        for name in ("targets", "users"):
            object.__setattr__(self, name, whole_numbers(name, getattr(self, name)))
        if not len(self.histories) == len(self.targets) == len(self.users):
            raise ValueError(
                f"queries: expected equal lengths, found {len(self.histories)} histories, "
                f"{len(self.targets)} targets and {len(self.users)} users"
            )

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        return f"Queries({len(self):,} targets, histories of {len(self.histories.items):,} events)"

    def select(self, rows: np.ndarray) -> Queries:
        """Take some queries: an index array, or bool[q]."""
        rows = np.arange(len(self))[rows]
        return Queries(self.histories.select(rows), self.targets[rows], self.users[rows])


@dataclasses.dataclass(frozen=True)
class Split:
    """Hold the training part, the queries to select by and the queries to report."""

    train: Sequences
    validation: Queries
    test: Queries


def leave_one_out(sequences: Sequences) -> Split:
    """Hold out each user's last event (test) and last but one (validation).

    Users with fewer than three events stay whole in the training part and are never asked
    about. A test history includes the validation event; the training part holds neither.
    User ids are the same in the training part as in `sequences`.
    """
    return leave_last(sequences, 1)


def leave_last(sequences: Sequences, m: int) -> Split:
    """Hold out each user's last m events (test) and the m before (validation).

    The target is the first of them; `following` gives all. Users with fewer than 2 m + 1 events
    stay whole in the training part. Otherwise as `leave_one_out`, which this is for m = 1.

    Raises:
      ValueError: m is below 1.
    """
    if m < 1:
        raise ValueError(f"m: expected at least 1, found {m}")
    stops = sequences.offsets[1:]
    held_out = sequences.lengths >= 2 * m + 1
    users = np.flatnonzero(held_out)
    return Split(
        train=_training_part(sequences, np.where(held_out, stops - 2 * m, stops)),
        validation=_queries(sequences, users, stops[users] - 2 * m),
        test=_queries(sequences, users, stops[users] - m),
    )


def last_of_some(sequences: Sequences, *, most: int = 2500, seed: int = 0) -> Split:
    """Hold out the last event of some users: half of these validate, the other half test.

    So no user is asked about twice, and everybody's other events are trained on.

    Args:
      sequences: whole sequences; users with fewer than three events are never asked about.
      most: users of either half.
      seed: draws them.
    """
    able = np.random.default_rng(seed).permutation(np.flatnonzero(sequences.lengths >= 3))
    half = min(most, len(able) // 2)
    asked = np.sort(able[:half]), np.sort(able[half : 2 * half])
    stops = sequences.offsets[1:].copy()
    stops[np.concatenate(asked)] -= 1
    validation, test = (_queries(sequences, users, stops[users]) for users in asked)
    return Split(_training_part(sequences, stops), validation, test)


def following(sequences: Sequences, queries: Queries, *, m: int) -> np.ndarray:
    """List the items of the m events that followed each query's history: int32[q, m].

    Args:
      sequences: whole sequences, of which the histories are beginnings.
      queries: of `leave_last` and the like; the first column is their targets.
      m: PAD fills the end where fewer events are left.
    """
    starts = sequences.offsets[queries.users] + queries.histories.lengths
    left = np.minimum(sequences.offsets[queries.users + 1] - starts, m)
    index, valid = window_index(starts, left, m)
    return np.where(valid, sequences.items[index], np.int32(PAD))


def by_user(
    sequences: Sequences, *, validation_users: ArrayLike, test_users: ArrayLike, m: int = 1
) -> Split:
    """Hold out whole users: the first of their last m events is the target, what precedes it the
    history.

    In the training part the held-out users own no event, so user ids do not change. Held-out
    users with fewer than m + 1 events are never asked about.

    Args:
      sequences: all users' events.
      validation_users, test_users: int arrays of user ids, without a user in common.
      m: events that are no history, at least 1; `following` gives them.

    Raises:
      ValueError: a user id is out of range, or is in both parts.
    """
    validation_users = _user_ids("validation_users", validation_users, len(sequences))
    test_users = _user_ids("test_users", test_users, len(sequences))
    both = np.intersect1d(validation_users, test_users)
    if len(both):
        raise ValueError(f"test_users: expected no validation users, found {both[0]}")
    starts, stops = sequences.offsets[:-1], sequences.offsets[1:].copy()
    lengths = sequences.lengths
    parts = []
    for users in (validation_users, test_users):
        asked = users[lengths[users] > m]
        parts.append(_queries(sequences, asked, sequences.offsets[asked + 1] - m))
        stops[users] = starts[users]
    return Split(_training_part(sequences, stops), *parts)


def global_time(
    sequences: Sequences,
    *,
    validation_from: Moment,
    test_from: Moment,
    targets: Literal["next", "each"] = "next",
    min_history: int = 1,
) -> Split:
    """Cut all users' events at the same two moments.

    Training has the events before `validation_from`. A validation target lies in
    [validation_from, test_from), a test target at or after `test_from`. Its history holds the
    user's events at strictly earlier times, those of the target's own period included; what was
    engaged with at the target's very moment, such as the rest of a basket, is not in it.

    Args:
      sequences: events with times.
      validation_from, test_from: the moments, in the seconds of `sequences.times`, or datetimes.
      targets: "next", a user's first event of the period, one query a user; or "each" event of
        the period (average over users' queries by `ranking.evaluate`'s errors over users).
      min_history: queries with fewer events before their target are left out; 0 keeps users who
        are new in the period.

    Raises:
      ValueError: there are no times, a user's times decrease, the moments are not in order, or
        an option is unknown.
    """
    if sequences.times is None:
        raise ValueError("sequences: expected times, found none")
    check_times("sequences", sequences)
    (validation_start,) = seconds("validation_from", [validation_from])
    (test_start,) = seconds("test_from", [test_from])
    if not validation_start < test_start:
        raise ValueError(
            f"test_from: expected a time after validation_from={validation_start}, found "
            f"{test_start}"
        )
    if targets not in ("next", "each"):
        raise ValueError(f"targets: expected 'next' or 'each', found {targets!r}")
    if min_history < 0:
        raise ValueError(f"min_history: expected at least 0, found {min_history}")
    times, owners = sequences.times, sequences.owners(np.arange(len(sequences.items)))
    before = np.bincount(owners[times < validation_start], minlength=len(sequences))
    periods = [(times >= validation_start) & (times < test_start), times >= test_start]
    queries = [
        _period_queries(sequences, owners, np.flatnonzero(period), targets, min_history)
        for period in periods
    ]
    return Split(_training_part(sequences, sequences.offsets[:-1] + before), *queries)


def hold_out_items(
    sequences: Sequences, items: ArrayLike, *, split: Callable[[Sequences], Split] = leave_one_out
) -> Split:
    """Split, then take some items away from training, so that they are cold.

    The training part loses the items' events, and so do all histories: nothing but their content
    is known of cold items, and a history is what a model trained on the training part can read.
    Queries whose history is empty then are left out. Targets stay: `with_targets` tells queries
    for cold items from those for warm ones.

    Args:
      sequences: all users' events.
      items: int[m], the items to hold out.
      split: how training and queries are cut before.

    Raises:
      ValueError: `items` is empty or has an id below 0.
    """
    items = np.unique(item_ids("items", items))
    if not len(items):
        raise ValueError("items: expected at least one, found none")
    parts = split(sequences)
    queries = []
    for part in (parts.validation, parts.test):
        histories = _without_items(part.histories, items)
        part = Queries(histories, part.targets, part.users)
        queries.append(part.select(histories.lengths > 0))
    return Split(_without_items(parts.train, items), *queries)


def with_targets(queries: Queries, items: ArrayLike) -> tuple[Queries, Queries]:
    """Part queries into those whose target is among `items`, and the others."""
    among = np.isin(queries.targets, item_ids("items", items))
    return queries.select(among), queries.select(~among)


def truncate_histories(queries: Queries, n: int) -> Queries:
    """Keep each history's last n events, as if the user were that new; n = 0 leaves none.

    A seen filter knows the kept events only.
    """
    if n < 0:
        raise ValueError(f"n: expected at least 0, found {n}")
    histories = queries.histories
    stops = histories.offsets[1:]
    starts = stops - np.minimum(histories.lengths, n)
    kept = histories.ranges(starts, stops, users=np.arange(len(histories)))
    return dataclasses.replace(queries, histories=kept)


def _period_queries(sequences, owners, targets_at, targets, min_history) -> Queries:
    users = owners[targets_at]
    if targets == "next":
        users, first = np.unique(users, return_index=True)
        targets_at = targets_at[first]
    stops = _first_of_moment(sequences.times, owners)[targets_at]
    asked = stops - sequences.offsets[users] >= min_history
    return _queries(sequences, users[asked], targets_at[asked], stops[asked])


def _first_of_moment(times: np.ndarray, owners) -> np.ndarray:
    """Find the first event of the same user at each event's time: int64[n_events]."""
    events = np.arange(len(owners))
    new = np.ones(len(owners), bool)
    new[1:] = (np.diff(owners) != 0) | (np.diff(times) != 0)
    return np.maximum.accumulate(np.where(new, events, 0))


def _without_items(sequences: Sequences, items) -> Sequences:
    return keep_events(sequences, ~np.isin(sequences.items, items))


def _training_part(sequences: Sequences, stops) -> Sequences:
    return sequences.ranges(sequences.offsets[:-1], stops, users=np.arange(len(sequences)))


def _queries(sequences: Sequences, users, targets_at, stops=None) -> Queries:
    """Ask for the events at `targets_at`, with histories up to `stops`, or up to the target."""
    stops = targets_at if stops is None else stops
    histories = sequences.ranges(sequences.offsets[users], stops, users=users)
    return Queries(histories, sequences.items[targets_at], users)


def _user_ids(name: str, users, num_users: int) -> np.ndarray:
    users = np.unique(whole_numbers(name, users))
    if len(users) and not (users[0] >= 0 and users[-1] < num_users):
        raise ValueError(f"{name}: expected ids in [0, {num_users}), found {users[0]}..{users[-1]}")
    return users
