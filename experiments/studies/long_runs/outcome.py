"""What one long run found."""

from __future__ import annotations

import dataclasses

from experiments.studies.long_runs.memory import Memory


@dataclasses.dataclass(frozen=True)
class LongRun:
    """How much was done, what was looked at, and what was wrong.

    Attributes:
      name: what it does, with its unit.
      done: how many of them.
      looks: comparisons with what is right.
      wrong: those that failed, and errors.
      seconds: that it took.
      memory: of the process.
    """

    name: str
    done: int
    looks: int
    wrong: int
    seconds: float
    memory: Memory
