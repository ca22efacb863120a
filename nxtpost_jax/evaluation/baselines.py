"""Baselines without training: each builds a `scores_fn` for `ranking.evaluate`.

Item-to-item weights are sparse rows, so that memory follows the observed pairs, not the square
of the catalogue.
"""

from __future__ import annotations

import dataclasses
import datetime

import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.evaluation.ranking import ScoresFn
from nxtpost_jax.events.columns import seconds
from nxtpost_jax.events.sequences import PAD, Sequences


@dataclasses.dataclass(frozen=True)
class ItemWeights:
    """Hold a sparse matrix of item-to-item weights by rows.

    Attributes:
      offsets: int64[N + 1]; row i is the range offsets[i]:offsets[i + 1] of the others.
      columns: int32[nnz].
      weights: float32[nnz].
    """

    offsets: np.ndarray
    columns: np.ndarray
    weights: np.ndarray

    @classmethod
    def from_pairs(
        cls, rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, num_items: int
    ) -> ItemWeights:
        """Add up weights of equal (row, column) pairs."""
        keys, slots = np.unique(rows * np.int64(num_items) + columns, return_inverse=True)
        rows, columns = keys // num_items, (keys % num_items).astype(np.int32)
        offsets = np.searchsorted(rows, np.arange(num_items + 1))
        return cls(offsets, columns, np.bincount(slots, weights, len(keys)).astype(np.float32))

    @property
    def rows(self) -> np.ndarray:
        """Name the row of every entry: int64[nnz]."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def scores(self, items_BxA: np.ndarray, coefficients_BxA: np.ndarray) -> np.ndarray:
        """Add up rows: out[b] = sum over a of coefficients[b, a] * row items[b, a].

        Args:
          items_BxA: int32[B, A], PAD adds nothing.
          coefficients_BxA: float32[B, A].

        Returns:
          float32[B, N].
        """
        num_items = len(self.offsets) - 1
        users, ages = np.nonzero(items_BxA != PAD)
        starts = self.offsets[items_BxA[users, ages]]
        counts = self.offsets[items_BxA[users, ages] + 1] - starts
        entries = np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
        weights = self.weights[entries] * np.repeat(coefficients_BxA[users, ages], counts)
        slots = np.repeat(users * num_items, counts) + self.columns[entries]
        flat = np.bincount(slots, weights, len(items_BxA) * num_items)
        return flat.reshape(len(items_BxA), num_items).astype(np.float32)


def popularity(train: Sequences, num_items: int) -> ScoresFn:
    """Score every item by its number of training events."""
    counts_N = item_counts(train, num_items).astype(np.float32)

    def scores_fn(histories):
        return np.broadcast_to(counts_N, (len(histories["items"]), num_items))

    return scores_fn


def recent_popularity(
    log: Sequences, num_items: int, *, window: float | datetime.timedelta = 7 * 86400.0
) -> ScoresFn:
    """Score every item by its events in the `window` seconds before the query.

    An event counts at times in [query time - window, query time). So the log may hold events
    after the queries, but no query's own target at its query time or before.

    Args:
      log: events with times, of the training part or of all that is known by then.
      num_items: N.
      window: seconds or a timedelta; a week when not given.

    Returns:
      A `scores_fn` that reads `query_times` of its batch: pass them to `ranking.evaluate`.

    Raises:
      ValueError: there are no times, an item is at or beyond `num_items`, or the window is not
        above 0. The function raises when a batch has no `query_times`.
    """
    _check_items(log, num_items)
    if log.times is None:
        raise ValueError("log: expected times, found none")
    if isinstance(window, datetime.timedelta):
        window = window.total_seconds()
    (length,) = seconds("window", [window])
    if not length > 0:
        raise ValueError(f"window: expected seconds above 0, found {window}")
    order = np.argsort(log.times, kind="stable")
    times, items = log.times[order], log.items[order]

    def scores_fn(histories):
        if "query_times" not in histories:
            raise ValueError("query_times: expected them in the call of evaluate, found none")
        moments_B = histories["query_times"]
        starts_B = np.searchsorted(times, moments_B - length)
        stops_B = np.searchsorted(times, moments_B)
        counts = [np.bincount(items[a:b], minlength=num_items) for a, b in zip(starts_B, stops_B)]
        return np.stack(counts).astype(np.float32)

    return scores_fn


def markov(
    train: Sequences,
    num_items: int,
    *,
    max_gap: int = 3,
    smoothing: float = 5.0,
    popularity_power: float = 0.3,
    last: int = 10,
    decay: float = 0.7,
) -> ScoresFn:
    """Score items by skip transitions from a history's last events.

    An event j that follows an event i of the same user d events later, d = 1..max_gap, adds 1/d
    to w[i, j]. A row is divided by its sum plus `smoothing`, a column by
    (events of j + 1)^popularity_power. A history scores the sum over its last `last` events i of
    decay^age w[i, :], the newest with age 0.
    """
    discount_N = (item_counts(train, num_items) + 1.0) ** popularity_power
    pairs = [_transitions(train, gap) for gap in range(1, max_gap + 1)]
    rows, columns, gaps = (np.concatenate(part) for part in zip(*pairs))
    raw = ItemWeights.from_pairs(rows, columns, 1.0 / gaps, num_items)
    sums_N = np.bincount(raw.rows, raw.weights, num_items) + smoothing
    weights = raw.weights / sums_N[raw.rows] / discount_N[raw.columns]
    table = dataclasses.replace(raw, weights=weights.astype(np.float32))

    def scores_fn(histories):
        return table.scores(*_recent(histories["items"], last, decay))

    return scores_fn


def item_knn(
    train: Sequences, num_items: int, *, neighbours: int = 100, last: int = 50, decay: float = 1.0
) -> ScoresFn:
    """Score items by the cosine of their training users to those of a history's events.

    Counts a user once an item. Keeps each item's `neighbours` nearest ones.
    """
    table = _cosine_neighbours(train, num_items, neighbours)

    def scores_fn(histories):
        return table.scores(*_recent(histories["items"], last, decay))

    return scores_fn


def content_knn(content: ArrayLike, *, last: int = 10, decay: float = 0.7) -> ScoresFn:
    """Score items by the cosine of their content to a history's decayed mean content.

    Args:
      content: float[N, C], a row an item.
      last, decay: events of the history that count, and what each is worth beside the next.
    """
    content = np.asarray(content, np.float32)
    unit_NxC = content / np.maximum(np.linalg.norm(content, axis=1, keepdims=True), 1e-12)

    def scores_fn(histories):
        items_BxA, coefficients_BxA = _recent(histories["items"], last, decay)
        users_BxC = np.einsum("ba,bac->bc", coefficients_BxA, unit_NxC[items_BxA])
        return users_BxC @ unit_NxC.T

    return scores_fn


def item_counts(train: Sequences, num_items: int) -> np.ndarray:
    """Count each item's events: int64[N].

    Raises:
      ValueError: an item is at or beyond `num_items`.
    """
    _check_items(train, num_items)
    return np.bincount(train.items, minlength=num_items)


def _check_items(train: Sequences, num_items: int) -> None:
    if len(train.items) and train.items.max() >= num_items:
        raise ValueError(f"items: expected ids below {num_items}, found {train.items.max()}")


def _transitions(train: Sequences, gap: int):
    """List the pairs of events of one user that lie `gap` events apart."""
    users = np.repeat(np.arange(len(train)), train.lengths)
    same = users[gap:] == users[:-gap]
    rows, columns = train.items[:-gap][same], train.items[gap:][same]
    return rows, columns, np.full(len(rows), gap)


def _recent(items_BxL, last: int, decay: float):
    """Take each left-aligned row's last events, newest first, and decay^age (0 at PAD)."""
    ages = np.arange(last)
    columns_BxA = np.sum(items_BxL != PAD, axis=1)[:, None] - 1 - ages[None, :]
    items_BxA = np.take_along_axis(items_BxL, np.maximum(columns_BxA, 0), axis=1)
    items_BxA = np.where(columns_BxA >= 0, items_BxA, PAD)
    return items_BxA, np.where(columns_BxA >= 0, decay ** ages[None, :], 0).astype(np.float32)


def _cosine_neighbours(train: Sequences, num_items: int, neighbours: int) -> ItemWeights:
    """Count shared users row by row, so that no item-by-item matrix is ever held."""
    _check_items(train, num_items)
    users = np.repeat(np.arange(len(train)), train.lengths)
    keys = np.unique(users * np.int64(num_items) + train.items)
    users, items = keys // num_items, keys % num_items
    events_of_user = np.searchsorted(users, np.arange(len(train) + 1))
    by_item = np.argsort(items, kind="stable")
    counts_N = np.bincount(items, minlength=num_items)
    owners = np.split(users[by_item], np.cumsum(counts_N)[:-1])
    rows = [
        _nearest(item, owner, items, events_of_user, counts_N, neighbours)
        for item, owner in enumerate(owners)
    ]
    lengths = [len(columns) for columns, _ in rows]
    columns, weights = (np.concatenate(part) for part in zip(*rows))
    return ItemWeights(np.concatenate([[0], np.cumsum(lengths)]), columns, weights)


def _nearest(item, owners, items, events_of_user, counts_N, neighbours):
    histories = [items[events_of_user[user] : events_of_user[user + 1]] for user in owners]
    both = np.concatenate(histories) if histories else np.zeros(0, np.int64)
    shared_N = np.bincount(both, minlength=len(counts_N)).astype(np.float32)
    shared_N[item] = 0
    cosine_N = shared_N / np.sqrt(np.maximum(counts_N * counts_N[item], 1))
    kept = np.argsort(-cosine_N, kind="stable")[:neighbours]
    kept = kept[cosine_N[kept] > 0]
    return kept.astype(np.int32), cosine_N[kept].astype(np.float32)
