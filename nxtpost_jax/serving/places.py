"""Which id lies in which slot of one segment of a catalogue, on the host."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.events.sequences import PAD


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """Hold the ids in slots; they never change.

    Attributes:
      ids: int32[S], each once, PAD where a slot is free.
    """

    ids: np.ndarray

    def __post_init__(self):
        self.ids.flags.writeable = False

    def find(self, ids: ArrayLike) -> np.ndarray:
        """Find the slots of ids: int32[m], PAD where there is no such id."""
        ids, (known, slots) = np.asarray(ids), self._by_id
        if not len(known):
            return np.full(ids.shape, PAD, np.int32)
        places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[places] == ids, slots[places], np.int32(PAD))

    @property
    def highest(self) -> int:
        """Give the highest id, PAD where there is none."""
        known, _ = self._by_id
        return int(known[-1]) if len(known) else PAD

    @functools.cached_property
    def free(self) -> np.ndarray:
        """List the free slots: int64[f]."""
        return np.flatnonzero(self.ids == PAD)

    @functools.cached_property
    def _by_id(self) -> tuple[np.ndarray, np.ndarray]:
        """Sort the ids, with their slots; stable sorting is quick where they nearly are."""
        slots = np.flatnonzero(self.ids != PAD).astype(np.int32)
        slots = slots[np.argsort(self.ids[slots], kind="stable")]
        return self.ids[slots], slots
