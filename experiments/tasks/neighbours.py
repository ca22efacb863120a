"""Which items go together: lists of neighbours, and of a pair, how many of them the user met.

A MoNN reads it as I2IF: of the items in the user's history, how many have this one among their
neighbours. The lists know the training events; a user whose own events are among them would find
each of its items counted. So users are in folds, and a training event reads lists that were
made without its user's fold (cross-fitting); later events read lists of all.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from hsnn_jax.monn import i2if

Array = jax.Array | np.ndarray

FOLDS = 5
WINDOW = 10  # events that an item follows within, unless told otherwise
NEIGHBOURS = 50  # of an item, that are kept
SMOOTHING = 10.0  # of how often an item occurs: rare followers need some evidence


def follower_lists(
    users: np.ndarray, items: np.ndarray, *, num_items: int, window: int = WINDOW
) -> np.ndarray:
    """List what often comes soon after each item, without each fold of users and without none.

    Item j's followers are those i with the largest count(j, then i) / sqrt(count(i) + 10).

    Args:
      users, items: int [n], events in the order of users and time.
      num_items: V.
      window: events that an item follows within.

    Returns:
      int32 [FOLDS + 1, V, NEIGHBOURS], best first, -1 after; the last is of all users.
    """
    frequency = np.bincount(items, minlength=num_items)
    before, after, user = _transitions(users, items, window)
    lists = []
    for kept in _without_each_fold(user, FOLDS):
        codes, counts = np.unique(
            before[kept].astype(np.int64) * num_items + after[kept], return_counts=True
        )
        item, follower = np.divmod(codes, num_items)
        score = counts / np.sqrt(frequency[follower] + SMOOTHING)
        lists.append(_best(item, follower, score, num_items))
    return np.stack(lists)


def companion_lists(
    users: np.ndarray, items: np.ndarray, *, num_users: int, num_items: int, folds: int = FOLDS
) -> np.ndarray:
    """List what is often taken by the same users, without each fold of users and without none.

    Item j's companions are those i with the largest (A^T A)[j, i], A the adjacency of users and
    items divided by the roots of both degrees.

    Args:
      users, items: int [n], distinct pairs.
      num_users, num_items: U, V.
      folds: `FOLDS`, or 0 for the lists of all users alone.

    Returns:
      int32 [folds + 1, V, NEIGHBOURS], best first, -1 after; the last is of all users.

    Source: the linear filter of Shen et al. 2021, "How Powerful is Graph Convolution for
    Recommendation?".
    """
    import scipy.sparse  # comes with scikit-learn

    lists = []
    for kept in _without_each_fold(users, folds):
        pairs = users[kept], items[kept]
        degrees = (np.bincount(x)[x].astype(np.float32) for x in pairs)
        weights = 1 / np.sqrt(np.prod(list(degrees), axis=0))
        matrix = scipy.sparse.csr_matrix((weights, pairs), shape=(num_users, num_items))
        together = (matrix.T @ matrix).tocsr().tocoo()
        apart = together.row != together.col
        of, score = (together.row[apart], together.col[apart]), together.data[apart]
        lists.append(_best(*of, score, num_items))
    return np.stack(lists)


def fold_of(users: np.ndarray, in_training: np.ndarray | bool) -> np.ndarray:
    """Say which of the lists events may read, int32 [n]; -1, the last, after training."""
    return np.where(in_training, users % FOLDS, -1).astype(np.int32)


def neighbours_of(lists: Array, folds: Array, *, items: Array) -> jax.Array:
    """Look up the neighbours of B histories; jittable.

    Args:
      lists: int [folds + 1, V, N].
      folds: int [B], from `fold_of`.
      items: int [B, L], -1 for none.

    Returns:
      int [B, L, N], -1 for none: values that `i2if.count_dense` counts.
    """
    found = lists[folds[:, None], jnp.maximum(items, 0)]
    return jnp.where(items[:, :, None] >= 0, found, -1)


def count_neighbours(
    lists: Array, folds: Array, *, items: Array, half_life: float | None = None
) -> i2if.DenseTable:
    """Count the neighbours of B histories; arguments as in `neighbours_of`; jittable.

    With a half-life, in items, the table has recency, and the histories are latest first.
    """
    neighbours, vocabulary = neighbours_of(lists, folds, items=items), lists.shape[1]
    if half_life is None:
        return i2if.count_dense(neighbours, vocabulary)
    return i2if.count_dense(neighbours, vocabulary, ages=ages(items), half_life=half_life)


def ages(items: Array) -> jax.Array:
    """Return the age of each item of histories [B, L], latest first: 0, 1, ... float32 [B, L]."""
    return jnp.broadcast_to(jnp.arange(items.shape[1], dtype=jnp.float32)[None, :], items.shape)


def latest_first(
    items: np.ndarray, starts: np.ndarray, *, ends: np.ndarray, length: int
) -> np.ndarray:
    """List the last of the items in [start, end) of each row, int32 [n, length], -1 after.

    Args:
      items: int [S], of all users back to back.
      starts, ends: int [n], places among them.
      length: most that a row lists.
    """
    if not len(items):
        return np.full((len(ends), length), -1, np.int32)
    index = ends[:, None] - 1 - np.arange(length)[None, :]
    inside = index >= starts[:, None]
    return np.where(inside, items[np.where(inside, index, 0)], -1).astype(np.int32)


def _without_each_fold(users, folds):
    """Yield masks of the events of all users but a fold's, for each fold, then of all."""
    for fold in range(folds):
        yield users % FOLDS != fold
    yield np.ones(len(users), bool)


def _transitions(users, items, window):
    """Return (item, follower, user) of all pairs of different items within the window."""
    found = []
    for k in range(1, window + 1):
        own = (users[:-k] == users[k:]) & (items[:-k] != items[k:])
        found.append((items[:-k][own], items[k:][own], users[k:][own]))
    return (np.concatenate(parts) for parts in zip(*found, strict=True))


def _best(item, neighbour, score, num_items) -> np.ndarray:
    """Keep the neighbours with the best scores of items in ascending order: int32 [V, N]."""
    bounds = np.searchsorted(item, np.arange(num_items + 1))
    lists = np.full((num_items, NEIGHBOURS), -1, np.int32)
    for own, first, last in zip(lists, bounds, bounds[1:]):
        order = np.argsort(-score[first:last], kind="stable")[:NEIGHBOURS]
        own[: len(order)] = neighbour[first:last][order]
    return lists
