"""What a caller can get wrong about events and ids, refused in one line each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.arrays import Array
from nxtpost_jax.events.columns import as_array, whole_numbers
from nxtpost_jax.events.sequences import Sequences


def as_sequences(name: str, histories: Sequences | Sequence | Array) -> Sequences:
    """Join lists of item ids into `Sequences`; these pass as they are.

    Raises:
      ValueError: this is no list of lists, or an id is no whole number from 0 to 2^31 - 1.
    """
    if isinstance(histories, Sequences):
        return histories
    arrays = as_rows(name, histories)
    offsets = np.cumsum([0] + [len(array) for array in arrays])
    arrays = [array for array in arrays if array.size]  # an empty list is an array of floats
    if any(array.dtype.kind != "i" for array in arrays):
        arrays = [item_ids(name, array) for array in arrays]  # joined unread, ids might be rounded
    return Sequences(item_ids(name, np.concatenate([np.zeros(0, np.int32), *arrays])), offsets)


def as_rows(name: str, lists: Sequence | Array) -> list[np.ndarray]:
    """Make an array of each list, whatever its entries.

    Raises:
      ValueError: this is no list of lists.
    """
    try:
        arrays = [as_array(name, history) for history in lists]
    except TypeError:
        found = type(lists).__name__
        raise ValueError(f"{name}: expected a list of item ids per user, found {found}") from None
    for number, array in enumerate(arrays):
        if array.ndim != 1:
            found = repr(array.item()) if array.ndim == 0 else f"shape {list(array.shape)}"
            raise ValueError(
                f"{name}: expected a list of item ids per user, found {found:.60} as number "
                f"{number}"
            )
    return arrays


def item_ids(name: str, ids: ArrayLike) -> np.ndarray:
    """Read ids as int32[m].

    Raises:
      ValueError: they are no whole numbers from 0 to 2^31 - 1 in one dimension.
    """
    return whole_numbers(name, ids)


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
        found = sequences.times[broken[0]]
        raise ValueError(f"{name}: expected finite times, found {found} in number {user}")
    owners = sequences.owners(np.arange(len(sequences.times)))
    back = np.flatnonzero((np.diff(sequences.times) < 0) & (np.diff(owners) == 0))
    if len(back):
        raise ValueError(
            f"{name}: expected the oldest event first, found times out of order in number "
            f"{owners[back[0]]}"
        )


def checked_mask(name: str, mask: ArrayLike, length: int | None = None) -> np.ndarray:
    """Refuse what is no bool[length]."""
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.ndim != 1 or (length is not None and len(mask) != length):
        expected = "bool[n]" if length is None else f"bool[{length}]"
        raise ValueError(f"{name}: expected {expected}, found {mask.dtype}{list(mask.shape)}")
    return mask
