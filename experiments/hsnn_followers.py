"""Which items often come soon after an item: a cross that knows pairs of items.

A MoNN reads it as I2IF: of the items that a user liked, how many are often followed by this one,
and how lately. The counts know the training events; a user whose own events are among them would
find each of its next items counted. So users are in folds, and a training event reads lists that
were counted without its user's fold (cross-fitting); later events read lists of all.
"""

from __future__ import annotations

import numpy as np

FOLDS = 5
WINDOW = 10  # events that an item follows within
FOLLOWERS = 50  # of an item, that are kept
SMOOTHING = 10.0  # of how often an item occurs: rare followers need some evidence


def follower_lists(users, items, num_items: int) -> np.ndarray:
    """List the followers of each item, without each fold of users and then without none.

    Item j's followers are those i with the largest count(j, then i) / sqrt(count(i) + 10).

    Args:
      users, items: int [n], events in the order of users and time.
      num_items: V.

    Returns:
      int32 [FOLDS + 1, V, FOLLOWERS], best first, -1 after; the last is of all users.
    """
    frequency = np.bincount(items, minlength=num_items)
    code, fold = _transitions(users, items, num_items)
    kept = [code[fold != f] for f in range(FOLDS)]
    return np.stack([_best(own, frequency, num_items) for own in (*kept, code)])


def fold_of(users, in_training) -> np.ndarray:
    """Say which of `follower_lists` events may read, int32 [n]."""
    return np.where(in_training, users % FOLDS, FOLDS).astype(np.int32)


def _transitions(users, items, num_items):
    """Return one number for each pair (item, follower) within the window, and its user's fold."""
    codes, folds = [], []
    for k in range(1, WINDOW + 1):
        before, after = items[:-k].astype(np.int64), items[k:]
        own = (users[:-k] == users[k:]) & (before != after)
        codes.append((before * num_items + after)[own])
        folds.append(users[k:][own] % FOLDS)
    return np.concatenate(codes), np.concatenate(folds)


def _best(code, frequency, num_items) -> np.ndarray:
    pairs, counts = np.unique(code, return_counts=True)
    before, after = np.divmod(pairs, num_items)
    score = counts / np.sqrt(frequency[after] + SMOOTHING)
    order = np.lexsort((-score, before))
    before, after = before[order], after[order]
    place = np.arange(len(before)) - np.searchsorted(before, before)
    lists = np.full((num_items, FOLLOWERS), -1, np.int32)
    kept = place < FOLLOWERS
    lists[before[kept], place[kept]] = after[kept]
    return lists
