"""What a caller can get wrong about events and ids, refused in one line each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nxtpost_jax.events.sequences import Sequences


def as_sequences(name: str, histories: Sequences | Sequence) -> Sequences:
    """Join lists of item ids into `Sequences`; these pass as they are.

    Raises:
      ValueError: a history is no list of integers from 0 to 2^31 - 1.
    """
    if isinstance(histories, Sequences):
        return histories
    arrays = [np.asarray(history) for history in histories]
    for number, array in enumerate(arrays):
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise ValueError(
                f"{name}: number {number} is {array.dtype}{list(array.shape)}, expected a "
                "list of item ids"
            )
    offsets = np.cumsum([0] + [len(array) for array in arrays])
    # An empty list is an array of floats.
    items = np.concatenate([np.zeros(0, np.int64), *(array for array in arrays if array.size)])
    return Sequences(item_ids(name, items), offsets)


def item_ids(name: str, ids) -> np.ndarray:
    """Read ids as int32[m].

    Raises:
      ValueError: they are no integers from 0 to 2^31 - 1 in one dimension.
    """
    ids = np.asarray(ids)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise ValueError(f"{name}: expected a list of ids, found {ids.dtype}{list(ids.shape)}")
    beyond = ids[(ids < 0) | (ids > np.iinfo(np.int32).max)]
    if len(beyond):
        raise ValueError(f"{name}: expected ids from 0 to 2^31 - 1, found {beyond[0]}")
    return ids.astype(np.int32)


def check_below(name: str, ids: np.ndarray, limit: int) -> None:
    """Refuse ids outside [0, limit)."""
    unknown = ids[(ids < 0) | (ids >= limit)]
    if len(unknown):
        raise ValueError(f"{name}: expected item ids in [0, {limit}), found {unknown[0]}")


def check_times(name: str, sequences: Sequences) -> None:
    """Refuse times that are not finite, or that decrease within a user; none are fine."""
    if sequences.times is None:
        return
    broken = np.flatnonzero(~np.isfinite(sequences.times))
    if len(broken):
        user = sequences.owners(broken[0])
        raise ValueError(f"{name}: number {user} has a time of NaN or infinity, expected seconds")
    owners = sequences.owners(np.arange(len(sequences.times)))
    back = np.flatnonzero((np.diff(sequences.times) < 0) & (np.diff(owners) == 0))
    if len(back):
        raise ValueError(
            f"{name}: number {owners[back[0]]} has times out of order, expected the oldest first"
        )


def checked_mask(name: str, mask, length: int | None = None) -> np.ndarray:
    """Refuse what is no bool[length]."""
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.ndim != 1 or (length is not None and len(mask) != length):
        expected = "bool[n]" if length is None else f"bool[{length}]"
        raise ValueError(f"{name}: expected {expected}, found {mask.dtype}{list(mask.shape)}")
    return mask
