"""Users and items as sets of pairs: train, validation and test, each user's as padded rows."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from experiments.data.interactions import Interactions
from experiments.harness.errors import InputError
from nxtpost_jax.events.sequences import window_index

VALIDATION_SHARE = 0.05  # of each user's training items, at least one where there are several
TEST_SHARE = 0.2  # of each user's items, the last ones, where the publisher gives no test part


class Pairs(NamedTuple):
    """Distinct (user, item) pairs, sorted by user: int32 [n] each."""

    users: np.ndarray
    items: np.ndarray

    def padded(self, rows: np.ndarray, width: int | None = None) -> np.ndarray:
        """Return the items of each of the users `rows`, int32 [len(rows), width], -1 after.

        The width is that of the longest unless it is given.
        """
        starts = np.searchsorted(self.users, rows)
        lengths = np.searchsorted(self.users, rows, side="right") - starts
        width = width or max(1, lengths.max(initial=0))
        index, inside = window_index(starts, lengths, width)
        return np.where(inside, self.items[index], -1).astype(np.int32)

    def draw(self, rng: np.random.Generator, *, size: int) -> dict[str, np.ndarray]:
        """Draw a batch of `size` pairs uniformly, with replacement."""
        rows = rng.integers(0, len(self.users), size)
        return {"users": self.users[rows], "items": self.items[rows]}


@dataclasses.dataclass(frozen=True, eq=False)
class PairProblem:
    """Who likes what, as sets.

    Attributes:
      num_users, num_items: of the data.
      train, validation, test: disjoint pairs. Validation comes from the training part.
      protocol: printed with every figure.
    """

    num_users: int
    num_items: int
    train: Pairs
    validation: Pairs
    test: Pairs
    protocol: dict[str, Any]

    @property
    def known(self) -> Pairs:
        """Train and validation: what is known when the test is taken."""
        both = [np.concatenate(parts) for parts in zip(self.train, self.validation)]
        return _sorted(*both)

    def users_with(self, part: Pairs, *, most: int, seed: int) -> np.ndarray:
        """Draw up to `most` of the users that have pairs in a part, ascending."""
        users = np.unique(part.users)
        rng = np.random.default_rng([seed, 17])
        return np.sort(rng.choice(users, min(most, len(users)), replace=False))


def pose_pairs(interactions: Interactions, *, seed: int) -> PairProblem:
    """Split interactions into sets of pairs.

    The test part is the publisher's, or the last fifth of each user's items. Validation is drawn
    by seed from what is left.

    Raises:
      InputError: nobody has enough items.
    """
    test = interactions.published_test
    rule = "the publisher's"
    users, items = interactions.users, interactions.items
    if test is None:
        first = first_events(users, items)
        users, items = users[first], items[first]
        rank, lengths = ranks(users)
        test = rank >= lengths - np.floor(TEST_SHARE * lengths).astype(int)
        rule = f"the last {TEST_SHARE:.0%} of each user's items"
    known = _distinct(users[~test], items[~test])
    held_out = _without(_distinct(users[test], items[test]), known, interactions.n_items)
    draws = np.random.default_rng([seed, 5]).random(len(known.users))
    order = np.lexsort((draws, known.users))
    shuffled = Pairs(known.users[order], known.items[order])
    rank, lengths = ranks(shuffled.users)
    take = np.where(lengths > 1, np.maximum(1, np.round(VALIDATION_SHARE * lengths)), 0)
    chosen = rank < take
    problem = PairProblem(
        num_users=interactions.n_users,
        num_items=interactions.n_items,
        train=_sorted(shuffled.users[~chosen], shuffled.items[~chosen]),
        validation=_sorted(shuffled.users[chosen], shuffled.items[chosen]),
        test=held_out,
        protocol={
            "data": interactions.name,
            "data_hash": interactions.sha256,
            "test": rule,
            "validation": f"{VALIDATION_SHARE:.0%} of each user's training items, by seed",
            "candidates": "all items that the user has not met before the test",
            "notes": "; ".join(interactions.notes),
        },
    )
    for name in ("train", "validation", "test"):
        if not len(getattr(problem, name).users):
            raise InputError(f"{interactions.name}: expected pairs for {name}, found none")
    return problem


def first_events(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return the places of the first event of each pair, in order."""
    keys = users.astype(np.int64) * (int(items.max(initial=0)) + 1) + items
    return np.sort(np.unique(keys, return_index=True)[1])


def _distinct(users, items) -> Pairs:
    keys = np.unique(np.stack([users, items], axis=1), axis=0)
    return Pairs(keys[:, 0].astype(np.int32), keys[:, 1].astype(np.int32))


def _without(pairs: Pairs, known: Pairs, num_items: int) -> Pairs:
    keys, others = (p.users.astype(np.int64) * num_items + p.items for p in (pairs, known))
    kept = ~np.isin(keys, others)
    return Pairs(pairs.users[kept], pairs.items[kept])


def _sorted(users, items) -> Pairs:
    order = np.lexsort((items, users))
    return Pairs(users[order], items[order])


def ranks(users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of each event among its user's, and how many those are; users ascend."""
    starts = np.searchsorted(users, users)
    return np.arange(len(users)) - starts, np.searchsorted(users, users, side="right") - starts
