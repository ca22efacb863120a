"""What a process holds while it works: resident memory, sampled, and whether it grows."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path

import jax
import numpy as np

from experiments.harness.errors import bad_input

_STATUS = Path("/proc/self/status")
SETTLED = 0.3  # share of the work after which nothing new should be kept


@dataclasses.dataclass
class Memory:
    """Samples of what is held: the share of the work done, MiB, and arrays on devices."""

    shares: list[float] = dataclasses.field(default_factory=list)
    mebibytes: list[float] = dataclasses.field(default_factory=list)
    arrays: list[int] = dataclasses.field(default_factory=list)

    def sample(self, share: float) -> None:
        """Look, after what is garbage has gone."""
        gc.collect()
        self.shares.append(share)
        self.mebibytes.append(resident_mebibytes())
        self.arrays.append(len(jax.live_arrays()))

    @property
    def settled(self) -> float:
        """MiB where the work has settled: the median of the samples of its middle third."""
        return float(np.median(self._between(SETTLED, 0.65)))

    @property
    def growth(self) -> float:
        """MiB more at the end than in the middle: medians of thirds of the samples."""
        return float(np.median(self._between(0.65, 1.0))) - self.settled

    @property
    def more_arrays(self) -> int:
        """Arrays more at the end than where the work had settled."""
        at = int(np.searchsorted(self.shares, SETTLED))
        return self.arrays[-1] - self.arrays[min(at, len(self.arrays) - 1)]

    def _between(self, low: float, high: float) -> list[float]:
        chosen = [m for share, m in zip(self.shares, self.mebibytes) if low <= share <= high]
        return chosen or self.mebibytes[-1:]


def resident_mebibytes() -> float:
    """Read the resident memory of this process from Linux.

    Raises:
      InputError: the system is another.
    """
    if not _STATUS.exists():
        raise bad_input(_STATUS, expected="Linux's report of a process", found="none")
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024
