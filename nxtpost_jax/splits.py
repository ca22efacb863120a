"""Splits into training sequences and queries, without leakage between them."""

from __future__ import annotations

import dataclasses

import numpy as np

from nxtpost_jax.sequences import Sequences


@dataclasses.dataclass(frozen=True)
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
        object.__setattr__(self, "targets", np.asarray(self.targets, np.int32))
        object.__setattr__(self, "users", np.asarray(self.users, np.int32))
        if not len(self.histories) == len(self.targets) == len(self.users):
            raise ValueError(
                f"queries: expected equal lengths, found {len(self.histories)} histories, "
                f"{len(self.targets)} targets and {len(self.users)} users"
            )

    def __len__(self) -> int:
        return len(self.targets)


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
    starts, stops = sequences.offsets[:-1], sequences.offsets[1:]
    held_out = sequences.lengths >= 3
    users = np.flatnonzero(held_out)
    return Split(
        train=sequences.ranges(starts, np.where(held_out, stops - 2, stops)),
        validation=_queries(sequences, users, stops[users] - 2),
        test=_queries(sequences, users, stops[users] - 1),
    )


def by_user(sequences: Sequences, validation_users, test_users) -> Split:
    """Hold out whole users: their last event is the target, all earlier ones the history.

    In the training part the held-out users own no event, so user ids do not change. Held-out
    users with fewer than two events are never asked about.

    Args:
      sequences: all users' events.
      validation_users, test_users: int arrays of user ids, without a user in common.

    Raises:
      ValueError: a user id is out of range, or is in both parts.
    """
    validation_users = _user_ids("validation_users", validation_users, len(sequences))
    test_users = _user_ids("test_users", test_users, len(sequences))
    both = np.intersect1d(validation_users, test_users)
    if len(both):
        raise ValueError(f"test_users: user {both[0]} is among the validation users too")
    starts, stops = sequences.offsets[:-1], sequences.offsets[1:].copy()
    lengths = sequences.lengths
    parts = []
    for users in (validation_users, test_users):
        asked = users[lengths[users] >= 2]
        parts.append(_queries(sequences, asked, sequences.offsets[asked + 1] - 1))
        stops[users] = starts[users]
    return Split(sequences.ranges(starts, stops), *parts)


def _queries(sequences: Sequences, users: np.ndarray, targets_at: np.ndarray) -> Queries:
    histories = sequences.ranges(sequences.offsets[users], targets_at)
    return Queries(histories, sequences.items[targets_at], users)


def _user_ids(name: str, users, num_users: int) -> np.ndarray:
    users = np.unique(np.asarray(users, np.int64))
    if len(users) and not (users[0] >= 0 and users[-1] < num_users):
        raise ValueError(f"{name}: expected ids in [0, {num_users}), found {users[0]}..{users[-1]}")
    return users
