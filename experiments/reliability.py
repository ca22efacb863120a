"""What holds when it lasts: long runs that are looked at as they go.

    python -m experiments.reliability                      # half an hour: what docs show
    python -m experiments.reliability --preset smoke       # the same for seconds

Training on all devices with sharded Shampoo, updates of live users, items that enter and leave an
index, and threads that ask while others change: each must end with no wrong answer, with replicas
that are equal bit for bit, and without growing. docs/reliability.md says what single faults do.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

from experiments.harness.options import OneSeed, check_above_zero, check_least
from experiments.harness.report import Table
from experiments.harness.study import Outcome, Setting, Study
from experiments.studies.long_runs.index import cycle_long
from experiments.studies.long_runs.outcome import LongRun
from experiments.studies.long_runs.serving import ask_long, update_long
from experiments.studies.long_runs.training import train_long

MOST_GROWTH = 0.02  # of the memory where the work has settled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reliability(OneSeed):
    """Run for long, and look."""

    steps: int = 20_000
    """of training"""
    updates: int = 10_000
    """events of live users"""
    cycles: int = 5_000
    """additions and removals of items of an index"""
    minutes: float = 10.0
    """of threads that ask and change"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, steps=1, updates=1, cycles=1)
        check_above_zero(self, "minutes")


PRESETS = {
    "default": Reliability(),
    "smoke": Reliability(steps=40, updates=40, cycles=10, minutes=0.05),
}


def measure(setting: Setting[Reliability]) -> Outcome:
    """Run each, one after the other."""
    options, seed = setting.options, setting.options.seed
    runs: list[Callable[[], LongRun]] = [
        functools.partial(
            train_long, setting.run, steps=options.steps, mesh=setting.mesh, seed=seed
        ),
        functools.partial(update_long, updates=options.updates, seed=seed),
        functools.partial(cycle_long, cycles=options.cycles, seed=seed),
        functools.partial(ask_long, seconds=60 * options.minutes, seed=seed),
    ]
    found = []
    for run in runs:
        found.append(run())
        print(said(found[-1]), flush=True)
    return Outcome(
        title="Long runs",
        intro="Each is looked at up to fifty times as it goes. Memory is what Linux says is "
        "resident; it has settled after a third of the work.",
        protocol={"devices": setting.mesh.size, "allowed growth": f"{MOST_GROWTH:.0%}"},
        metrics={f"{each.name}/{k}": v for each in found for k, v in figures_of(each).items()},
        baselines={f"{each.name}/settled_mebibytes": each.memory.settled for each in found},
        tables=[table_of(found)],
        found=" ".join(map(said, found)),
    )


def figures_of(run: LongRun) -> dict[str, float]:
    """Flatten a run."""
    return {
        "done": float(run.done),
        "looks": float(run.looks),
        "wrong": float(run.wrong),
        "seconds": run.seconds,
        "grown_mebibytes": run.memory.growth,
        "more_arrays": float(run.memory.more_arrays),
    }


def grows(run: LongRun) -> bool:
    """Say whether it holds more at the end than memory that is used again explains."""
    return run.memory.growth > MOST_GROWTH * run.memory.settled


def said(run: LongRun) -> str:
    """Say in a sentence what a run found."""
    held = f"{run.memory.growth:+.0f} MiB on {run.memory.settled:,.0f}"
    verdict = "GREW" if grows(run) else "did not grow"
    wrong = f"{run.wrong:,} WRONG" if run.wrong else "none wrong"
    return f"{run.done:,} {run.name}: {run.looks:,} looks, {wrong}; memory {verdict} ({held})."


def table_of(found: Sequence[LongRun]) -> Table:
    """Lay the runs out."""
    return Table(
        title="Long runs",
        columns=(
            *("", "done", "looks", "wrong", "seconds", "MiB settled", "MiB more at the end"),
            "arrays more",
        ),
        baselines=[
            [
                *(run.name, run.done, run.looks, run.wrong, run.seconds, run.memory.settled),
                *(run.memory.growth, run.memory.more_arrays),
            ]
            for run in found
        ],
        rows=[],
        note="Wrong: looks that found another answer than the right one, or replicas that differ.",
    )


STUDY = Study(
    name="reliability",
    about="long runs: no growth, no wrong answer",
    minutes=25,
    claim="Long runs end with equal replicas, no wrong answer and no growth.",
    presets=PRESETS,
    measure=measure,
)
main = STUDY.main

if __name__ == "__main__":
    main()
