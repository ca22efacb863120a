"""Rated events as examples of a scorer: what is known of the user before each, and of the item.

A user side is the user's liked and disliked items so far, the latest items, the taste in genres,
and demographics where there are any; an item side is its id, genres, year and popularity in
training. Crosses (I2IF) count the genres of liked items, and the items that often follow them,
with recency in events.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.data.interactions import Interactions
from experiments.data.user_features import NAMES, UserFeatures
from experiments.harness.errors import InputError, bad_input
from experiments.tasks.neighbours import (
    Array,
    ages,
    count_neighbours,
    fold_of,
    follower_lists,
    latest_first,
)
from experiments.tasks.next_item import MOST_RATINGS
from experiments.tasks.pairs import first_events, ranks
from hsnn_jax.monn import i2if
from hsnn_jax.monn.config import Features

LIKED = 0.8  # of the best rating: from there on the label is 1, 4 of 5 or 8 of 10
LENGTHS = {"liked": 40, "disliked": 10, "recent": 5}
HALF_LIFE = 10.0  # of recency, in liked items
PART = 1000  # events whose users are encoded at once
_YEAR_AND_GENRES = re.compile(r"\((\d{4})\)\s*(.*)$")


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Rated events in the order of users and time, and the parts they belong to.

    Attributes:
      users, items: int32 [n].
      labels: float32 [n], 1 where the rating is at least `LIKED` of the best, or there is none.
      part: int8 [n]: 0 train, 1 validation, 2 test, -1 none of them; see `make_examples`.
      genres: int32 [n_items, A], of each item, -1 after.
      genre_names: G of them.
      item_dense: float32 [n_items, 2]: year and log popularity in training.
      followers: from `follower_lists`, of liked training events.
      demographics: None without.
      num_users, num_items: of the data.
    """

    users: np.ndarray
    items: np.ndarray
    labels: np.ndarray
    part: np.ndarray
    genres: np.ndarray
    genre_names: tuple[str, ...]
    item_dense: np.ndarray
    followers: np.ndarray
    demographics: UserFeatures | None
    num_users: int
    num_items: int

    def rows(self, part: int) -> np.ndarray:
        """Return the events of a part."""
        return np.flatnonzero(self.part == part)

    def liked(self, part: int) -> np.ndarray:
        """Return the liked events of a part."""
        return np.flatnonzero((self.part == part) & (self.labels == 1))

    def next_liked(self, part: int) -> np.ndarray:
        """Return the first liked event of each user in a part: what is to be retrieved."""
        rows = self.liked(part)
        return rows[np.unique(self.users[rows], return_index=True)[1]]

    @property
    def user_fields(self) -> Features:
        """The fields of `user_side`."""
        sparse = dict.fromkeys((*LENGTHS, "last"), self.num_items)
        if self.demographics is not None:
            sparse |= dict(zip(NAMES, self.demographics.sizes, strict=True))
        return Features(dense={"taste": len(self.genre_names), "profile": 2}, sparse=sparse)

    @property
    def item_fields(self) -> Features:
        """The fields of `item_side`."""
        sparse = {"id": self.num_items, "genres": len(self.genre_names)}
        return Features(dense={"facts": 2}, sparse=sparse)

    def item_side(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the features and the attributes, by cross, of all items."""
        ids = jnp.arange(self.num_items, dtype=jnp.int32)
        genres = jnp.asarray(self.genres)
        features = {"id": ids, "genres": genres, "facts": jnp.asarray(self.item_dense)}
        return features, {"genre": genres, "follows": ids[:, None]}

    def histories(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Gather what precedes the events `rows`: a batch's arrays, for `user_side`."""
        batch = {
            "liked": self._before("liked", rows),
            "disliked": self._before("disliked", rows),
            "recent": self._before("all", rows, LENGTHS["recent"]),
        }
        batch["last"] = batch["recent"][:, 0]
        batch["fold"] = fold_of(self.users[rows], self.part[rows] == 0)
        seen, liked = (self._count(name, rows) for name in ("all", "liked"))
        batch["profile"] = np.stack(
            [np.log1p(seen) / 5, (liked + 1.2) / (seen + 2.0)], axis=1
        ).astype(np.float32)
        if self.demographics is not None:
            values = self.demographics.values[self.users[rows]]
            batch |= {name: values[:, k] for k, name in enumerate(NAMES)}
        return batch

    @functools.cached_property
    def _streams(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Items of each kind of events, and where each event's history begins and ends there."""
        kinds = {"all": np.ones(len(self.users), bool), "liked": self.labels == 1}
        kinds["disliked"] = ~kinds["liked"]
        first = np.searchsorted(self.users, self.users)
        streams = {}
        for name, chosen in kinds.items():
            before = np.concatenate([[0], np.cumsum(chosen)])
            # An event's history: those of the stream in [start of its user, place of the event).
            streams[name] = (self.items[chosen], before[first], before[:-1])
        return streams

    def _count(self, name: str, rows: np.ndarray) -> np.ndarray:
        _, starts, ends = self._streams[name]
        return ends[rows] - starts[rows]

    def _before(self, name, rows, length=None):
        items, starts, ends = self._streams[name]
        return latest_first(items, starts[rows], ends=ends[rows], length=length or LENGTHS[name])

    def liked_before(self, rows: np.ndarray, *, length: int) -> np.ndarray:
        """Return the latest liked items before the events, int32 [len(rows), length], -1 after."""
        return self._before("liked", rows, length)

    def seen(self, rows: np.ndarray) -> np.ndarray:
        """Return all items that precede the events, int32 [len(rows), longest], -1 after."""
        return self._before("all", rows, max(1, int(self._count("all", rows).max())))


def user_side(
    batch: Mapping[str, Any], genres: Array, *, num_genres: int, followers: Array
) -> tuple[dict[str, Any], dict[str, i2if.DenseTable]]:
    """Return the features and the counts, by cross, of a batch from `Examples.histories`.

    Jittable; the item of an event itself never enters.

    Args:
      batch: dict of [B, ...].
      genres: int [n_items, A].
      num_genres: G.
      followers: int [folds + 1, n_items, N].
    """
    liked = batch["liked"]
    of_liked = jnp.where(liked[:, :, None] >= 0, genres[jnp.maximum(liked, 0)], -1)
    table = i2if.count_dense(of_liked, num_genres, ages=ages(liked), half_life=HALF_LIFE)
    follows = count_neighbours(followers, batch["fold"], items=liked, half_life=HALF_LIFE)
    taste = table.counts / jnp.maximum(table.total, 1)[:, None]
    names = (*LENGTHS, "last", "profile", *NAMES)
    features = {name: batch[name] for name in names if name in batch}
    return features | {"taste": taste}, {"genre": table, "follows": follows}


def is_rated(interactions: Interactions) -> bool:
    """Tell whether the events' weights are ratings, some of them above and some below `LIKED`."""
    weights = interactions.weights
    if weights is None or len(np.unique(weights)) > MOST_RATINGS:
        return False
    return bool(0 < _labels(weights).mean() < 1)


def parts_of(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows in parts of one size; the last one repeats its last row."""
    for first in range(0, len(rows), PART):
        yield np.pad(rows[first : first + PART], (0, max(0, first + PART - len(rows))), "edge")


def check_halves(batch_size: int, *, flag: str) -> None:
    """Refuse a batch that has no halves, one of rated and one of liked events.

    Raises:
      InputError: the size is odd.
    """
    if batch_size % 2:
        raise bad_input(flag, expected="an even number", found=str(batch_size))


def make_examples(
    interactions: Interactions,
    demographics: UserFeatures | None = None,
    *,
    implicit: bool = False,
    stale_days: float | None = None,
) -> Examples:
    """Label, split and describe events.

    Args:
      interactions: rated events, or any where they are implicit.
      demographics: of the users, None without.
      implicit: whether an event says that its item is liked, whatever its weight. A user's first
        event with each item counts, and no cancellation does.
      stale_days: None for parts by user: the first 80 % of a user's events train, the next 10 %
        validate, the last 10 % test. Else parts by time: the last tenth of all events tests; what
        is older by these days or more trains and, the last ninth of it, validates. What is between
        is in histories alone, as a request's is when models are that old.

    Raises:
      InputError: the events have no order; or no ratings, or all labels are equal, where they are
        not implicit; or no times where parts are by time, or a part is empty.
    """
    if not interactions.ordered or (interactions.weights is None and not implicit):
        raise InputError(f"{interactions.name}: expected ratings in an order, found none")
    chosen = np.arange(interactions.n_events)
    if implicit:
        chosen = _taken(interactions)
        labels = np.ones(len(chosen), np.float32)
    else:
        weights = np.asarray(interactions.weights)
        labels = _labels(weights)
        if not 0 < labels.mean() < 1:
            raise InputError(
                f"{interactions.name}: expected ratings on both sides of "
                f"{LIKED * weights.max():.3g}, found {labels.mean():.0%} at or above it"
            )
    users, items = interactions.users[chosen], interactions.items[chosen]
    if stale_days is None:
        part = _parts_by_user(users)
    else:
        part = _parts_by_time(interactions, chosen, stale_days)
    years, genres, names = _facts(interactions)
    popularity = np.bincount(items[part == 0], minlength=interactions.n_items)
    liked = (part == 0) & (labels == 1)
    dense = np.stack([years, np.log1p(popularity) / 5], axis=1).astype(np.float32)
    return Examples(
        users=users,
        items=items,
        labels=labels,
        part=part,
        genres=genres,
        genre_names=names,
        item_dense=dense,
        followers=follower_lists(users[liked], items[liked], num_items=interactions.n_items),
        demographics=demographics,
        num_users=interactions.n_users,
        num_items=interactions.n_items,
    )


def _labels(weights: np.ndarray) -> np.ndarray:
    return (weights >= LIKED * weights.max()).astype(np.float32)


def _taken(interactions: Interactions) -> np.ndarray:
    """Return the first event of each pair, cancellations left out, int [m]."""
    kept = np.arange(interactions.n_events)
    if interactions.actions is not None and "cancellation" in interactions.action_names:
        cancelled = interactions.action_names.index("cancellation")
        kept = np.flatnonzero(interactions.actions != cancelled)
    return kept[first_events(interactions.users[kept], interactions.items[kept])]


def _parts_by_user(users: np.ndarray) -> np.ndarray:
    rank, lengths = ranks(users)
    place = rank / lengths
    return ((place >= 0.8).astype(np.int8) + (place >= 0.9)).astype(np.int8)


def _parts_by_time(interactions: Interactions, chosen: np.ndarray, days: float) -> np.ndarray:
    """Part events by the clock, int8 [len(chosen)]; see `make_examples`."""
    if interactions.timestamps is None:
        raise InputError(f"{interactions.name}: expected events with times, found none")
    times = interactions.timestamps[chosen]
    opens = np.quantile(times, 0.9, method="higher")
    old = times < opens - days * 86400  # seconds
    part = np.where(times >= opens, np.int8(2), np.int8(-1))
    part[old] = 0
    if old.any():
        part[old & (times >= np.quantile(times[old], 8 / 9, method="higher"))] = 1
    if not (part == 0).any():
        raise InputError(
            f"{interactions.name}: expected events {days:g} days before the last tenth of them, "
            "to train and validate by, found none"
        )
    return part


def _facts(interactions: Interactions):
    """Read year and genres from texts such as `A Film (1990) Drama War`."""
    texts = interactions.item_texts or [""] * interactions.n_items
    found = [_YEAR_AND_GENRES.search(text) for text in texts]
    names = tuple(sorted({g for match in found if match for g in match[2].split()})) or ("none",)
    number = {name: k for k, name in enumerate(names)}
    lists = [[number[g] for g in match[2].split()] if match else [] for match in found]
    genres = np.full((len(lists), max(1, max(map(len, lists)))), -1, np.int32)
    for row, own in enumerate(lists):
        genres[row, : len(own)] = own
    years = np.array([(int(match[1]) - 1980) / 20 if match else 0.0 for match in found])
    return years, genres, names
