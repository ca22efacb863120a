"""Gates: whether there is a gain at all, before a share of it is spoken of. Validation alone.

Gate A: the best MoNN by brute force beats the two tower. Gate B: the largest model beats S. Both by
two standard errors of recall over seeds and users together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.harness.figures import over_seeds_and_users
from experiments.harness.report import Table, signed
from experiments.retrieval.kept_gain import CLEAR, NAMES, TWO_TOWER


@dataclasses.dataclass(frozen=True)
class Gate:
    """One comparison of two models, both by brute force.

    Attributes:
      name: "A" or "B".
      model, rival: of `NAMES`.
      gain, error: of the model's recall over the rival's, and its standard error.
    """

    name: str
    model: str
    rival: str
    gain: float
    error: float

    @property
    def smallest(self) -> float:
        """The smallest effect that could be seen."""
        return CLEAR * self.error

    @property
    def passed(self) -> bool:
        """Whether the gain is that large."""
        return self.gain > self.smallest

    @property
    def question(self) -> str:
        """What is asked."""
        return f"gate {self.name}: {NAMES[self.model]} above {NAMES[self.rival]}"

    @property
    def verdict(self) -> str:
        """What is answered."""
        if self.passed:
            return "passed"
        why = "it finds less" if self.gain < -self.smallest else "undecidable here"
        return f"{why}; the smallest effect that could be seen is {self.smallest:.4f}"


def gates_of(hits: Mapping[str, np.ndarray]) -> tuple[Gate, Gate]:
    """Compare the models of a study.

    Args:
      hits: of each model, by size, the two tower first: float [seeds, users], 1 where the user's
        next item was found.
    """
    monns = [name for name in hits if name != TWO_TOWER]
    best = max(monns, key=lambda name: hits[name].mean())
    pairs = (("A", best, TWO_TOWER), ("B", monns[-1], "S"))
    gates = [
        Gate(name, model, rival, *over_seeds_and_users(hits[model] - hits[rival]))
        for name, model, rival in pairs
    ]
    return gates[0], gates[1]


def gates_table(gates: Sequence[Gate], *, base: np.ndarray, k: int) -> Table:
    """Show what was asked, and what the answer is; `base` are the hits of the two tower."""
    seeds, users = base.shape
    seen = "seeds and users" if seeds > 1 else "users; one seed tells nothing of other seeds"
    return Table(
        title="Gates, on validation",
        columns=("", f"gain in recall@{k}", "two standard errors", "verdict"),
        baselines=[[f"{NAMES[TWO_TOWER]} (recall {base.mean():.4f})", None, None, None]],
        rows=[[g.question, signed(g.gain, g.error), g.smallest, g.verdict] for g in gates],
        note=f"All {users:,} users who have a next item in the validation part, {seeds} seed(s). "
        f"Standard errors over {seen}. The best MoNN is chosen by the same recall. Where a gate "
        "fails there is no table 1 and no share of a gain; tables 2 and 3 compare one model with "
        "itself.",
    )


def gate_figures(gates: Sequence[Gate]) -> dict[str, float]:
    """Return the figures of the gates, for summary.json."""
    return {
        f"gate {gate.name}/{figure}": value
        for gate in gates
        for figure, value in (
            ("gain", gate.gain),
            ("gain_se", gate.error),
            ("passed", float(gate.passed)),
        )
    }


def found_by(gates: Sequence[Gate]) -> str:
    """Say the verdicts in sentences."""
    return " ".join(f"{g.question[0].upper()}{g.question[1:]}: {g.verdict}." for g in gates)
