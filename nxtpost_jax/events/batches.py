"""Training batches: pure gathers, a function of seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nxtpost_jax.events.sequences import PAD, Sequences, gather_rows, window_index


def training_windows(train: Sequences, max_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Cover every transition of every user by windows of at most `max_len` transitions.

    A user with m <= max_len transitions (events - 1) gives one window. A longer one gives
    ceil(m / max_len) full windows, evenly spaced, the first at the first event and the last at
    the last event, so that no event is lost and no position is padding. Where users have static
    features, each has one window without inputs more: its label is the first event, so that the
    features alone are trained to say something of a user who is new.

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
    lengths = np.minimum(np.repeat(transitions, counts), max_len)
    if train.static is not None:
        firsts = train.offsets[:-1][train.lengths > 0]
        starts = np.concatenate([starts, firsts])
        lengths = np.concatenate([lengths, np.zeros_like(firsts)])
    return starts, lengths


def batch_shapes(
    train: Sequences, *, max_len: int, batch_size: int, buckets: int = 1
) -> dict[tuple[int, int], np.ndarray]:
    """Deal the windows into buckets by length, each of rows as narrow as its windows allow.

    Bucket i has rows of ceil(max_len / 2^i) inputs, and 2^i times `batch_size` rows a batch or a
    little more, so that batches of all buckets hold about as many positions. A window goes into
    the narrowest bucket that holds it. Padding costs as much as events do: of MovieLens-1M's
    rows of 200 a third is padding, and a fifth in three buckets.

    Returns:
      windows of `training_windows`, ascending int64[n], by shape (rows, L); n is above 0.

    Raises:
      ValueError: `batch_size`, `max_len` or `buckets` is below 1.
    """
    _, lengths = training_windows(train, max_len)
    return _deal(lengths, max_len, batch_size, buckets)


def _deal(lengths, max_len: int, batch_size: int, buckets: int):
    for name, value in (("batch_size", batch_size), ("buckets", buckets)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, found {value}")
    widths = sorted({-(-max_len // 2**i) for i in range(buckets)})
    bucket = np.searchsorted(widths, lengths)
    shapes = [(batch_size * (max_len // width), width) for width in widths]
    dealt = {shape: np.flatnonzero(bucket == i) for i, shape in enumerate(shapes)}
    return {shape: windows for shape, windows in dealt.items() if len(windows)}


def steps_per_epoch(train: Sequences, **rows: int) -> int:
    """Count the batches of one epoch of `train_batches`; arguments as in `batch_shapes`."""
    return sum(-(-len(windows) // B) for (B, _), windows in batch_shapes(train, **rows).items())


def pooled_lengths(
    train: Sequences, starts: np.ndarray, lengths: np.ndarray, num_labels: int
) -> np.ndarray:
    """Count the inputs that each window's pooled vector may read.

    All of a window's inputs if `num_labels` events follow them; else as many from its start as
    leave `num_labels` events of the user, and at least one if it has one.

    Returns:
      int32[W], at most `lengths`.
    """
    ends = train.offsets[train.owners(starts) + 1]
    return np.minimum(np.maximum(ends - num_labels - starts, 1), lengths).astype(np.int32)


def train_batches(
    train: Sequences,
    *,
    max_len: int,
    batch_size: int,
    seed: int,
    epoch: int,
    num_labels: int = 1,
    buckets: int = 1,
    moments: np.ndarray | None = None,
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
      buckets: shapes that the batches may have, see `batch_shapes`.
      moments: int32[n_events], the moment of each event, see `trends.TrendTable.moments`.

    Yields:
      items: int32[B, L], inputs, PAD at the end.
      labels: int32[B, L], the item that follows each input, PAD where there is none; in a row
        without inputs the user's first item, in column 0.
      pooled_lengths: int32[B], k: the pooled vector reads the inputs 0..k-1.
      long_labels: int32[B, m], the items of the m events that follow these, PAD where the user
        has no more.
      users: int32[B], whose row it is.
      times: float32[B, L], seconds since the previous input, if `train` has times.
      actions, surfaces: int32[B, L], if `train` has them.
      static: int32[B, G], if `train` has static features.
      weights, long_weights: float32[B, L] and [B, m], of the events that are labels, if `train` has
        weights; 0 where there is no label.
      moments, long_moments: int32[B, L] and [B], of the events that are labels, the first of the
        long ones; if `moments` are given.

    Raises:
      ValueError: `batch_size`, `max_len`, `num_labels` or `buckets` is below 1, or no user has two
        events.
    """
    if num_labels < 1:
        raise ValueError(f"num_labels: expected at least 1, found {num_labels}")
    starts, lengths = training_windows(train, max_len)
    by_shape = _deal(lengths, max_len, batch_size, buckets)
    if not by_shape:
        raise ValueError("train: expected a user with at least two events, found none")
    pooled = pooled_lengths(train, starts, lengths, num_labels)
    draw = np.random.default_rng((seed, epoch))
    batches = []
    for (B, L), windows in by_shape.items():
        order = np.resize(draw.permutation(windows), -(-len(windows) // B) * B)
        batches += [(rows, L) for rows in order.reshape(-1, B)]
    if len(by_shape) > 1:
        batches = [batches[i] for i in draw.permutation(len(batches))]
    for rows, L in batches:
        yield _inputs_and_labels(
            train, starts[rows], lengths[rows], L, moments=moments
        ) | _long_labels(train, starts[rows], pooled[rows], num_labels, moments=moments)


def _inputs_and_labels(train: Sequences, starts, lengths, width: int, *, moments) -> dict:
    index_BxL, valid_BxL = window_index(starts, lengths, width)
    # The label of an input is the event after it, that of an empty row its user's first event.
    after = np.minimum(lengths, 1)
    label_BxL, labelled_BxL = window_index(starts + after, np.maximum(lengths, 1), width)
    rows = gather_rows(train, index_BxL, valid_BxL)
    if train.static is not None:
        rows["static"] = train.static[train.owners(starts)]
    rows["labels"] = np.where(labelled_BxL, train.items[label_BxL], np.int32(PAD))
    if moments is not None:
        rows["moments"] = moments[label_BxL]
    if train.weights is not None:
        rows["weights"] = np.where(labelled_BxL, train.weights[label_BxL], np.float32(0))
    return rows


def _long_labels(train: Sequences, starts, pooled, num_labels: int, *, moments) -> dict:
    users_B = train.owners(starts)
    first_B = starts + pooled
    left_B = np.minimum(train.offsets[users_B + 1] - first_B, num_labels)
    index_Bxm, valid_Bxm = window_index(first_B, left_B, num_labels)
    labels = {
        "users": users_B.astype(np.int32),
        "pooled_lengths": pooled,
        "long_labels": np.where(valid_Bxm, train.items[index_Bxm], np.int32(PAD)),
    }
    if moments is not None:
        labels["long_moments"] = moments[index_Bxm[:, 0]]
    if train.weights is not None:
        labels["long_weights"] = np.where(valid_Bxm, train.weights[index_Bxm], np.float32(0))
    return labels
