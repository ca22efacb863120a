"""Training batches: pure gathers, a function of seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nxtpost_jax.sequences import PAD, Sequences, gather_rows, window_index


def training_windows(train: Sequences, max_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Cover every transition of every user by windows of at most `max_len` transitions.

    A user with m <= max_len transitions (events - 1) gives one window. A longer one gives
    ceil(m / max_len) full windows, evenly spaced, the first at the first event and the last at
    the last event, so that no event is lost and no position is padding.

    Returns:
      starts: int64[W], the first event of each window.
      lengths: int64[W], the number of its inputs; its labels end one event later.
    """
    if max_len < 1:
        raise ValueError(f"max_len: expected at least 1, found {max_len}")
    transitions = np.maximum(train.lengths - 1, 0)
    counts = -(-transitions // max_len)
    first = np.cumsum(counts) - counts
    k = np.arange(counts.sum()) - np.repeat(first, counts)
    slack = np.repeat(np.maximum(transitions - max_len, 0), counts)
    starts = np.repeat(train.offsets[:-1], counts)
    starts += (k * slack) // np.maximum(np.repeat(counts, counts) - 1, 1)
    return starts, np.minimum(np.repeat(transitions, counts), max_len)


def steps_per_epoch(train: Sequences, *, max_len: int, batch_size: int) -> int:
    """Count the batches of one epoch of `train_batches`."""
    return -(-len(training_windows(train, max_len)[0]) // batch_size)


def pooled_lengths(
    train: Sequences, starts: np.ndarray, lengths: np.ndarray, num_labels: int
) -> np.ndarray:
    """Count the inputs that each window's pooled vector may read.

    All of a window's inputs if `num_labels` events follow them; else as many from its start as
    leave `num_labels` events of the user, and at least one.

    Returns:
      int32[W], between 1 and `lengths`.
    """
    ends = train.offsets[train.owners(starts) + 1]
    return np.clip(ends - num_labels - starts, 1, lengths).astype(np.int32)


def train_batches(
    train: Sequences,
    *,
    max_len: int,
    batch_size: int,
    seed: int,
    epoch: int,
    num_labels: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Yield one epoch of next-item batches in an order drawn from (seed, epoch).

    Every batch has the same shapes: the last one is filled up with windows from the start of
    the epoch's order. Rows are left-aligned, see `sequences.pad_histories`.

    The short-term labels are those of `training_windows` whatever `num_labels`. The long-term
    labels follow the first `pooled_lengths` inputs, not always the last: a user's last window is
    followed by one event only, and cutting it shorter would take its last events from the
    short-term loss. States are causal, so a vector pooled over the first `pooled_lengths` states
    has not seen the long labels, though some of them are inputs further right.

    Args:
      train: training sequences; users with fewer than two events give nothing.
      max_len: L, inputs a row; see `training_windows` for longer users.
      batch_size: B.
      seed, epoch: equal values give equal batches.
      num_labels: m, long-term labels a row.

    Yields:
      items: int32[B, L], inputs, PAD at the end.
      labels: int32[B, L], the item that follows each input, PAD where there is none.
      pooled_lengths: int32[B], k: the pooled vector reads the inputs 0..k-1.
      long_labels: int32[B, m], the items of the m events that follow these, PAD where the user
        has no more.
      users: int32[B], whose row it is.
      times: float32[B, L], seconds since the previous input, if `train` has times.
      actions, surfaces: int32[B, L], if `train` has them.
      static: int32[B, G], if `train` has static features.

    Raises:
      ValueError: `batch_size`, `max_len` or `num_labels` is below 1, or no user has two events.
    """
    for name, value in (("batch_size", batch_size), ("num_labels", num_labels)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, found {value}")
    starts, lengths = training_windows(train, max_len)
    if not len(starts):
        raise ValueError("train: expected a user with at least two events, found none")
    pooled = pooled_lengths(train, starts, lengths, num_labels)
    order = np.random.default_rng((seed, epoch)).permutation(len(starts))
    order = np.resize(order, -(-len(order) // batch_size) * batch_size)
    for rows in order.reshape(-1, batch_size):
        yield _inputs_and_labels(train, starts[rows], lengths[rows], max_len) | _long_labels(
            train, starts[rows], pooled[rows], num_labels
        )


def _inputs_and_labels(train: Sequences, starts, lengths, max_len: int) -> dict:
    index_BxL, valid_BxL = window_index(starts, lengths, max_len)
    labels_BxL = np.where(valid_BxL, train.items[index_BxL + 1], np.int32(PAD))
    return gather_rows(train, index_BxL, valid_BxL) | {"labels": labels_BxL}


def _long_labels(train: Sequences, starts, pooled, num_labels: int) -> dict:
    users_B = train.owners(starts)
    first_B = starts + pooled
    left_B = np.minimum(train.offsets[users_B + 1] - first_B, num_labels)
    index_Bxm, valid_Bxm = window_index(first_B, left_B, num_labels)
    return {
        "users": users_B.astype(np.int32),
        "pooled_lengths": pooled,
        "long_labels": np.where(valid_Bxm, train.items[index_Bxm], np.int32(PAD)),
    }
