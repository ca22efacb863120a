"""What a stage does when, and what it has done so far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal


@dataclasses.dataclass
class Progress:
    """What a stage has done so far; saved with every checkpoint."""

    step: int = 0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    compile_seconds: float = 0.0
    best_epoch: int | None = None
    best_step: int | None = None
    best_score: float = -math.inf
    finished: bool = False
    skipped: int = 0  # steps whose loss or gradient was not finite
    skipped_in_a_row: int = 0  # of these, the last ones


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """When a stage evaluates, saves and logs, and what it selects by."""

    epochs: int
    steps_per_epoch: int
    evaluate_every: int
    select: str | None
    select_mode: Literal["max", "min"]
    checkpoint_every: int | None
    log_every: int
    patience: int | None = None
    most_skipped: int | None = None

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if name != "epochs" and isinstance(value, int) and value < 1:
                raise ValueError(f"{name}: expected at least 1, found {value}")

    def score(self, metrics: Mapping[str, float]) -> float:
        """Turn the selecting metric into a score of which more is better."""
        if self.select is None or self.select not in metrics:
            raise ValueError(f"select: expected one of {sorted(metrics)}, found {self.select!r}")
        return metrics[self.select] * (1 if self.select_mode == "max" else -1)
