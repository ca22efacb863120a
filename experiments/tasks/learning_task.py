"""What an optimizer is compared on: a model, its batches, and how well it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from experiments.loop.train_step import InitParams, Loss, Params

Score = Callable[[Params], Mapping[str, float]]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LearningTask:
    """A task without optimizer, length and seed.

    Attributes:
      init_params: maps a key to parameters.
      loss: maps (params, batch, key) to the mean loss and a dict of scalars.
      batches: maps (first step, number of steps, seed) to the batches of these steps: a function
        of these three alone.
      validate: maps parameters to "loss" and, where there is one, `figure` on validation data.
      test: the same on test data.
      chance: loss of a model that knows nothing; a trial that diverged counts as this.
      figure: what beside the loss is shown, such as "accuracy"; "" where there is nothing.
      intro: model and data, a sentence or two.
      split: which data train, validate and test.
    """

    init_params: InitParams
    loss: Loss
    batches: Callable[[int, int, int], Iterable[Mapping[str, np.ndarray]]]
    validate: Score
    test: Score
    chance: float
    figure: str
    intro: str
    split: str
