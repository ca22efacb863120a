"""Backfill of cold users: histories below n events are filled up from the training part.

What is filled in stands before the user's own events, as if it were older, and is none of the
user's own items. It shapes the user's vector only: a filled item counts as seen by nobody, so
pass a backfill as the `backfill` of `ranking.evaluate` or of `Recommender`, and do not fill the
queries themselves.

Both functions are pure, from `Sequences` to `Sequences`; bind the rest by `functools.partial`.
A filled event has the time of the user's first own event (of the last event of training where
there is none), hence no gap in time, and the most common action and surface of training.

Source: NxtPost (arXiv 2202.03645), cold start.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from nxtpost_jax.evaluation.baselines import item_counts
from nxtpost_jax.events.content import Content
from nxtpost_jax.events.sequences import Sequences

_CHUNK = 256  # short histories compared with all training users at a time


def fill_with_popular(histories: Sequences, train: Sequences, *, n: int) -> Sequences:
    """Fill each history up to n events with the items of most training events.

    The more popular an item is, the nearer it stands to the user's own events.

    Args:
      histories: any; those of at least n events stay as they are.
      train: training events.
      n: events a history has at least, where training knows as many other items.

    Raises:
      ValueError: n is below 0, training has no event, or lacks times, actions or surfaces that
        the histories have.
    """
    _check(train, histories, n)
    ranked = _by_count(item_counts(train, int(train.items.max()) + 1))
    short = np.flatnonzero(histories.lengths < n)
    return _filled(histories, train, {int(row): ranked for row in short}, n)


def fill_from_similar_users(
    histories: Sequences,
    train: Sequences,
    *,
    n: int,
    content: Content = None,
    num_neighbours: int = 50,
) -> Sequences:
    """Fill each history up to n events with the most common items of similar training users.

    Similar users are those of the highest cosine between the means of their items' content, or,
    without content, those with the most static features in common; ties go to the users of more
    events. Users of whom nothing is known to compare, and places that the neighbours leave, are
    filled by `fill_with_popular`.

    Args:
      histories, train, n: see `fill_with_popular`.
      content: f32[N, C], a row an item; a row of zeros is an item without content.
      num_neighbours: training users whose items are counted.

    Raises:
      ValueError: as in `fill_with_popular`; or there is neither content nor static features on
        both sides, or num_neighbours is below 1.
    """
    _check(train, histories, n)
    if num_neighbours < 1:
        raise ValueError(f"num_neighbours: expected at least 1, found {num_neighbours}")
    num_items = int(train.items.max()) + 1
    ranked = _by_count(item_counts(train, num_items))
    short = np.flatnonzero(histories.lengths < n)
    others = np.flatnonzero(train.lengths > 0)
    others = others[np.argsort(-train.lengths[others], kind="stable")]  # ties: more events first
    if content is not None:
        told_UxC = _means(train, others, content)
        likeness = partial(_cosines, histories, content=content, told_UxC=told_UxC)
    elif histories.static is not None and train.static is not None:
        likeness = partial(_common_static, histories.static, told_UxG=train.static[others])
    else:
        raise ValueError(
            "content: expected it where histories or train have no static features, found None"
        )
    fills = {}
    for start in range(0, len(short), _CHUNK):
        rows = short[start : start + _CHUNK]
        for row, likeness_U in zip(rows.tolist(), likeness(rows)):
            fills[row] = ranked
            if likeness_U.any():
                nearest = others[np.argsort(-likeness_U, kind="stable")[:num_neighbours]]
                common = _by_count(item_counts(train.select(nearest), num_items))
                fills[row] = np.concatenate([common, ranked[~np.isin(ranked, common)]])
    return _filled(histories, train, fills, n)


def _check(train: Sequences, histories: Sequences, n: int) -> None:
    if n < 0:
        raise ValueError(f"n: expected at least 0, found {n}")
    if not len(train.items):
        raise ValueError("train: expected events, found none")
    for name in ("times", "actions", "surfaces"):
        if getattr(histories, name) is not None and getattr(train, name) is None:
            raise ValueError(f"train: expected {name}, which the histories have, found none")


def _by_count(counts_N) -> np.ndarray:
    """List the items that occur, the most frequent first."""
    order = np.argsort(-counts_N, kind="stable")
    return order[counts_N[order] > 0]


def _common_static(static: np.ndarray, rows, *, told_UxG) -> np.ndarray:
    """Count the known static features that users share: int[R, U]."""
    asked_RxG = static[rows]
    equal_RxUxG = asked_RxG[:, None] == told_UxG[None]
    return (equal_RxUxG & (asked_RxG >= 0)[:, None]).sum(axis=2)


def _cosines(histories: Sequences, rows, *, content, told_UxC) -> np.ndarray:
    return _means(histories, rows, content) @ told_UxC.T


def _means(sequences: Sequences, rows, content) -> np.ndarray:
    """Average the unit content of each user's items: unit rows, zeros where there is none."""
    unit_NxC = _unit(np.asarray(content, np.float32))
    chosen = sequences.select(rows)
    known = np.flatnonzero(chosen.items < len(unit_NxC))
    owners = chosen.owners(known)
    sums = [
        np.bincount(owners, unit_NxC[chosen.items[known], channel], len(rows))
        for channel in range(unit_NxC.shape[1])
    ]
    return _unit(np.stack(sums, axis=1))


def _unit(rows) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _filled(histories: Sequences, train: Sequences, fills: dict, n: int) -> Sequences:
    """Put the first items of `fills[row]` that are not the row's own before its events."""
    added, counts = [], np.zeros(len(histories), np.int64)
    for row, ranked in fills.items():
        own, missing = histories[row], n - len(histories[row])
        # Enough of the ranking to find `missing` others in.
        head = ranked[: missing + len(own)]
        chosen = head[~np.isin(head, own)][:missing][::-1]
        added.append(chosen)
        counts[row] = len(chosen)
    lengths = histories.lengths
    offsets = np.concatenate([[0], np.cumsum(lengths + counts)])
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths + counts)
    own = places >= np.repeat(counts, lengths + counts)
    new = ~own
    items = np.empty(offsets[-1], np.int32)
    items[own] = histories.items
    items[new] = np.concatenate([np.zeros(0, np.int32), *added])
    columns = {}
    for name in ("times", "actions", "surfaces"):
        if getattr(histories, name) is not None:
            known, told = getattr(histories, name), getattr(train, name)
            column = np.empty(offsets[-1], known.dtype)
            column[own] = known
            if name == "times":
                values = _times_of_fills(histories, times=known, last=told.max())
            else:
                values = np.full(len(histories), np.bincount(told).argmax())
            column[new] = np.repeat(values, counts)
            columns[name] = column
    return Sequences(items, offsets, static=histories.static, **columns)


def _times_of_fills(histories: Sequences, *, times: np.ndarray, last: float) -> np.ndarray:
    """Choose the time of each history's filled events: that of its first one, or the last."""
    has_events = histories.lengths > 0
    chosen = np.full(len(histories), last)
    chosen[has_events] = times[histories.offsets[:-1][has_events]]
    return chosen
