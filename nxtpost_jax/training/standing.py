"""What a training has come to: all that the built-in loop goes on from."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from nxtpost_jax.training.steps import TrainState

Record = dict[str, float]


@dataclasses.dataclass
class Standing:
    """Hold what a training has come to.

    Attributes:
      state: parameters and the optimizer's state after the last epoch.
      records: one per epoch: epoch, loss, seconds and, where validated, figures.
      best: the state of the best validated epoch, None before the first.
      best_epoch, best_score: which that is, and its figure.
      finite: where nothing is validated, the parameters that the last epoch began with whose first
        loss was finite.
    """

    state: TrainState
    records: list[Record] = dataclasses.field(default_factory=list)
    best: TrainState | None = None
    best_epoch: int | None = None
    best_score: float = -math.inf
    finite: Any = None

    @property
    def kept(self) -> TrainState:
        """Give what shall be served: the best epoch's state, or the last one."""
        return self.state if self.best is None else self.best
