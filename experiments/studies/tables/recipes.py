"""What tables 2 and 3 vary: who learns the nodes, and what LTI is trained without.

All recipes train a MoNN S of the nodes and a two tower of the items together, on the same batches,
from the same values.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from hsnn_jax import LTIConfig

SIZES = ("S", "XS")  # of the nodes, and of the items
LEARNERS, PARTS = 2, 3  # tables


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to train the levels; the parts are there by default.

    Attributes:
      name: in tables.
      learner: "LTI", nodes by gradient through soft assignments; "EM", nodes by gradient under the
        lists, which are renewed at every validation; "k-means", lists of the item vectors of a two
        tower that was trained alone, which stay.
      schedule: the temperature of the assignment falls in training; else it is that of the end.
      balance: the regulariser of the nodes' use.
      warmup: the index loss comes in by and by.
      distillation: every level learns from the largest model's odds among drawn items too.
      ensemble: a level's logit is a weighted sum of the outputs down to it; else its own output.
    """

    name: str
    learner: Literal["LTI", "EM", "k-means"] = "LTI"
    schedule: bool = True
    balance: bool = True
    warmup: bool = True
    distillation: bool = True
    ensemble: bool = True

    def index(self, nodes: int, *, steps: int) -> LTIConfig:
        """Return what the loss of the nodes weighs."""
        given = LTIConfig(num_nodes=(nodes,), total_steps=steps)
        return dataclasses.replace(
            given,
            alpha_exponent=given.alpha_exponent if self.schedule else 0.0,
            balance_weight=given.balance_weight if self.balance else 0.0,
            warmup_steps=min(given.warmup_steps, max(1, steps // 10)) if self.warmup else 0,
        )


FULL = Recipe(name="LTI")
BY_TABLE: dict[int, tuple[Recipe, ...]] = {
    LEARNERS: (Recipe(name="k-means", learner="k-means"), Recipe(name="EM", learner="EM")),
    PARTS: (
        Recipe(name="LTI without schedule", schedule=False),
        Recipe(name="LTI without balance", balance=False),
        Recipe(name="LTI without warm-up", warmup=False),
        Recipe(name="LTI without distillation", distillation=False),
        Recipe(name="LTI without ensemble", ensemble=False),
    ),
}


def recipes_of(tables: tuple[int, ...]) -> list[Recipe]:
    """Return all that the tables compare, the full recipe first; none of tables without any."""
    found = [recipe for table, own in BY_TABLE.items() if table in tables for recipe in own]
    return [FULL, *found] if found else []
