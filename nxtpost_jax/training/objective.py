"""What the user tower is trained for: losses, negatives, and their weights."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

Loss = Literal["sampled_softmax", "full_softmax", "gbce", "bce"]
Negatives = Literal["uniform", "in_batch", "mixed"]


@dataclasses.dataclass(frozen=True)
class Objective:
    """Choose the training objective; hashable, so a static argument of `jit`.

    Attributes:
      loss: "sampled_softmax", "full_softmax" over all candidates, "bce" (SASRec) or "gbce"
        (gSASRec); see `losses`.
      negatives: "uniform" over the candidates, "in_batch" (the paper: the labels of the batch's
        other users) or "mixed" (both); see `negatives`. A full softmax draws none.
      num_negatives: draws that a batch shares; "mixed" takes as many of either kind.
      logq: in a sampled softmax, lower each negative's logit by the log of its item's expected
        count among the draws; see `losses.loss`.
      short_weight: weight of the loss of each position against the item that follows.
      long_weight: weight of the loss of the pooled user against the items after the window.
      num_labels: m, how many items after the window the long-term loss has as labels.
      calibration: t of gBCE in [0, 1]: 0 is BCE, 1 is fully calibrated.
      label_smoothing: share of a softmax's target that is dealt over the other items: over all
        candidates of a full one, over the negatives of a sampled one.
      chunk: items a chunk of the full softmax.

    Raises:
      ValueError: a value is out of range, or options contradict each other.

    Source: NxtPost (arXiv 2202.03645), losses; gSASRec (arXiv 2308.07192), gBCE; Yi et al. 2019
    (Sampling-bias-corrected neural modeling), logQ.
    """

    loss: Loss = "sampled_softmax"
    negatives: Negatives = "uniform"
    num_negatives: int = 256
    logq: bool = False
    short_weight: float = 1.0
    long_weight: float = 0.0
    num_labels: int = 1
    calibration: float = 0.75
    label_smoothing: float = 0.0
    chunk: int = 8192

    def __post_init__(self):
        for name, kind in (("loss", Loss), ("negatives", Negatives)):
            if getattr(self, name) not in get_args(kind):
                expected = ", ".join(map(repr, get_args(kind)))
                raise ValueError(
                    f"{name}: expected one of {expected}, found {getattr(self, name)!r}"
                )
        for name in ("num_negatives", "num_labels", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        for name in ("short_weight", "long_weight"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name}: expected a finite number of at least 0, found {value}")
        if not self.short_weight + self.long_weight > 0:
            raise ValueError("long_weight: expected above 0 where short_weight is 0, found 0")
        if not 0 <= self.calibration <= 1:
            raise ValueError(f"calibration: expected in [0, 1], found {self.calibration}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing: expected a share in [0, 1), found {self.label_smoothing}"
            )
        if self.label_smoothing and not self.loss.endswith("softmax"):
            raise ValueError(
                f"label_smoothing: expected a softmax loss beside it, found {self.loss!r}"
            )
        if self.logq and self.loss != "sampled_softmax":
            raise ValueError(
                f"logq: expected loss 'sampled_softmax' beside it, found {self.loss!r}"
            )


def resolve(
    objective: Objective | None, num_negatives: int | None, *, rest: Objective | None = None
) -> Objective | None:
    """Read `num_negatives=n` as short for an objective with so many; `rest` says what else it has.

    Raises:
      ValueError: both are given.
    """
    if num_negatives is None:
        return objective
    if objective is not None:
        raise ValueError(
            f"num_negatives: expected it within the objective alone, found {num_negatives} too"
        )
    return dataclasses.replace(rest or Objective(), num_negatives=num_negatives)


# What many items are learned by where nobody says; see docs/nxtpost/defaults.md.
MIXED = Objective(negatives="mixed", logq=True)


def for_items(num_items: int) -> Objective:
    """Choose what trains a catalogue well where nobody says (docs/nxtpost/defaults.md).

    Few items are all scored. Of more there are mixed negatives with logQ, about a sixth as many of
    either kind as there are items, between 256 and 2,048.
    """
    if num_items <= 500:
        return Objective(loss="full_softmax")
    wanted = 2 ** int(math.log2(max(num_items / 6, 1)))
    size = min(max(wanted, 256), 2048)
    return dataclasses.replace(MIXED, num_negatives=size)
