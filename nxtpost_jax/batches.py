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


def train_batches(
    train: Sequences, *, max_len: int, batch_size: int, seed: int, epoch: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yield one epoch of next-item batches in an order drawn from (seed, epoch).

    Every batch has the same shapes: the last one is filled up with windows from the start of
    the epoch's order. Rows are left-aligned, see `sequences.pad_histories`.

    Args:
      train: training sequences; users with fewer than two events give nothing.
      max_len: L, inputs a row; see `training_windows` for longer users.
      batch_size: B.
      seed, epoch: equal values give equal batches.

    Yields:
      items: int32[B, L], inputs, PAD at the end.
      labels: int32[B, L], the item that follows each input, PAD where there is none.
      times: float32[B, L], seconds since the previous input, if `train` has times.
      actions: int32[B, L], if `train` has actions.

    Raises:
      ValueError: `batch_size` or `max_len` is below 1, or no user has two events.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, found {batch_size}")
    starts, lengths = training_windows(train, max_len)
    if not len(starts):
        raise ValueError("train: expected a user with at least two events, found none")
    order = np.random.default_rng((seed, epoch)).permutation(len(starts))
    order = np.resize(order, -(-len(order) // batch_size) * batch_size)
    for rows in order.reshape(-1, batch_size):
        yield _batch(train, starts[rows], lengths[rows], max_len)


def _batch(train: Sequences, starts: np.ndarray, lengths: np.ndarray, max_len: int) -> dict:
    index_BxL, valid_BxL = window_index(starts, lengths, max_len)
    labels_BxL = np.where(valid_BxL, train.items[index_BxL + 1], np.int32(PAD))
    return gather_rows(train, index_BxL, valid_BxL) | {"labels": labels_BxL}
