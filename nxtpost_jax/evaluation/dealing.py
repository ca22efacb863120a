"""Queries dealt over processes: each ranks its share, and all know all ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Deal:
    """One process's share of an evaluation that `count` of them run with the same arguments.

    Batches are dealt in turn. A batch is what it is in one process, so that the ranks are the same
    bit for bit.

    Attributes:
      index: of this process, from 0.
      count: of processes.
      gather: from this process's array to those of all, [count, ...]; every process calls it as
        often, with arrays of one shape.
    """

    index: int
    count: int
    gather: Callable[[np.ndarray], np.ndarray]

    def own(self, batches: np.ndarray) -> np.ndarray:
        """Take the share of batches int[b, B] that is this process's, [b', B]."""
        return batches[self.index :: self.count]

    def joined(self, own: np.ndarray, batches: int) -> np.ndarray:
        """Put what the processes made of their batches, [b', B] each, in order: [b, B]."""
        most = -(-batches // self.count)
        padded = np.pad(own, [(0, most - len(own)), (0, 0)])
        dealt = np.asarray(self.gather(padded))
        return dealt.swapaxes(0, 1).reshape(most * self.count, *own.shape[1:])[:batches]
