"""What came of the faults: figures and a table."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Literal

from experiments.harness.report import Cell, Table
from experiments.studies.faults.site import Trial
from experiments.studies.faults.small_run import EVERY, TOTAL


@dataclasses.dataclass(frozen=True)
class Tried:
    """What came of a kind of fault."""

    name: str
    trials: Sequence[Trial]

    @property
    def survived(self) -> int:
        """Trials that ended as promised."""
        return sum(trial.ended != "neither" for trial in self.trials)

    @property
    def refused(self) -> int:
        """Trials that ended with a refusal, and nothing changed."""
        return sum(trial.ended == "refused" for trial in self.trials)

    def median_and_most(
        self, figure: Literal["again", "seconds"]
    ) -> tuple[float | None, float | None]:
        """Return those of a figure over the trials that have it."""
        values = [v for trial in self.trials if (v := getattr(trial, figure)) is not None]
        return (statistics.median(values), max(values)) if values else (None, None)


def figures_of(tried: Tried) -> dict[str, float | None]:
    """Flatten a kind."""
    again, most_again = tried.median_and_most("again")
    seconds, most_seconds = tried.median_and_most("seconds")
    return {
        "tried": float(len(tried.trials)),
        "survived": float(tried.survived),
        "refused": float(tried.refused),
        "steps_again": again,
        "most_steps_again": most_again,
        "seconds": seconds,
        "most_seconds": most_seconds,
    }


def said(tried: Tried) -> str:
    """Say in a line what came of a kind."""
    wrong = [trial.found for trial in tried.trials if trial.ended == "neither"]
    survived = f"{tried.name}: {tried.survived} of {len(tried.trials)} survived"
    return "\n  ".join((survived, *wrong))


def said_of_all(kinds: Sequence[Tried]) -> str:
    """Say in a sentence what came of all."""
    tried, survived = (
        sum(f(k) for k in kinds) for f in (lambda k: len(k.trials), lambda k: k.survived)
    )
    lost = ", ".join(kind.name for kind in kinds if kind.survived < len(kind.trials))
    return f"{tried:,} faults, {survived:,} survived{f'; NOT ALL of: {lost}' if lost else ''}."


def table_of(kinds: Sequence[Tried]) -> Table:
    """Lay the kinds out."""

    def row(kind: Tried) -> list[Cell]:
        first = (kind.name, len(kind.trials), kind.survived, kind.refused)
        return [*first, *kind.median_and_most("again"), *kind.median_and_most("seconds")]

    return Table(
        title="Faults",
        columns=(
            *("", "tried", "survived", "of them refused", "steps again", "most"),
            *("seconds to its end", "most seconds"),
        ),
        baselines=[["nothing", 1, 1, 0, 0, 0, None, None]],
        rows=list(map(row, kinds)),
        note=f"Of runs of {TOTAL} steps with a checkpoint every {EVERY}. Survived: ended with the "
        "bits of a run that nothing happened to, or refused in one line with nothing changed. "
        "Steps again: taken before the fault, and once more after it. Seconds: from the fault to "
        "the end of the process; of a damaged file from the start until it is named. Medians.",
    )
