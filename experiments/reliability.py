"""What survives when something fails, and what holds when it lasts.

    python -m experiments.reliability                      # what docs show: 35 minutes
    python -m experiments.reliability --parts faults       # small runs that are killed, ...
    python -m experiments.reliability --preset smoke       # two faults, and seconds of each

Faults are really done to small runs: they are killed and stopped, disks fail, files are damaged,
processes are lost. Each must go on to the bits of a run that nothing happened to, or be refused in
one line. And long runs are looked at as they go: training on all devices with sharded Shampoo,
updates of live users, items that enter and leave an index, and threads that ask while others
change. Each must end with no wrong answer, with replicas that are equal bit for bit, and without
growing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

from experiments.harness.errors import bad_input
from experiments.harness.options import OneSeed, check_above_zero, check_least
from experiments.harness.processes import is_joined
from experiments.harness.report import Table
from experiments.harness.study import Outcome, Setting, Study
from experiments.studies.faults import figures
from experiments.studies.faults.figures import Tried
from experiments.studies.faults.kinds import Counts
from experiments.studies.faults.trying import try_all
from experiments.studies.long_runs.index import cycle_long
from experiments.studies.long_runs.outcome import LongRun
from experiments.studies.long_runs.serving import ask_long, update_long
from experiments.studies.long_runs.training import train_long

MOST_GROWTH = 0.02  # of the memory where the work has settled
PARTS = ("faults", "long")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reliability(OneSeed):
    """Do faults to small runs; run for long, and look."""

    parts: tuple[str, ...] = PARTS
    """what is done: faults, long (runs)"""
    kills: int = 10
    """kill -9, half of them in a save"""
    stops: int = 3
    """SIGTERM and Ctrl-C, for each of four kinds"""
    disks: int = 2
    """disks that fail, for each of five kinds"""
    files: int = 5
    """damaged files, for each of four kinds"""
    others: int = 2
    """batches of NaN, for each of two kinds, and second processes"""
    pairs: int = 1
    """of which one process is lost, for each of four kinds"""
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
        check_least(self, **{field.name: 0 for field in dataclasses.fields(Counts)})
        check_least(self, steps=1, updates=1, cycles=1)
        check_above_zero(self, "minutes")
        for found in self.parts or ("none",):
            if found not in PARTS:
                expected = f"one or more of {', '.join(PARTS)}"
                raise bad_input("--parts", expected=expected, found=found)
        if "faults" in self.parts and is_joined(self):
            found = "faults, which start processes of their own"
            raise bad_input("--parts", expected="long alone in several processes", found=found)


PRESETS = {
    "default": Reliability(),
    "smoke": Reliability(
        kills=2,
        stops=0,
        disks=0,
        files=0,
        others=0,
        pairs=0,
        steps=40,
        updates=40,
        cycles=10,
        minutes=0.05,
    ),
}


def measure(setting: Setting[Reliability]) -> Outcome:
    """Do each part, one after the other."""
    parts = setting.options.parts
    faults = do_faults(setting) if "faults" in parts else []
    long = run_long(setting) if "long" in parts else []
    metrics = {
        **{f"{each.name}/{k}": v for each in faults for k, v in figures.figures_of(each).items()},
        **{f"{each.name}/{k}": v for each in long for k, v in figures_of(each).items()},
    }
    return Outcome(
        title="Faults and long runs",
        intro="Faults are done to small runs in processes of their own. Long runs are looked at up "
        "to fifty times as they go. Memory is what Linux says is resident; it has settled after "
        "a third of the work.",
        protocol={"devices": setting.mesh.size, "allowed growth": f"{MOST_GROWTH:.0%}"},
        metrics=metrics,
        baselines={f"{each.name}/settled_mebibytes": each.memory.settled for each in long},
        tables=[
            *([figures.table_of(faults)] if faults else []),
            *([table_of(long)] if long else []),
        ],
        found=" ".join([*([figures.said_of_all(faults)] if faults else []), *map(said, long)]),
    )


def do_faults(setting: Setting[Reliability]) -> list[Tried]:
    """Do faults to small runs, kind by kind."""
    names = [field.name for field in dataclasses.fields(Counts)]
    counts = Counts(**{name: getattr(setting.options, name) for name in names})
    found = []
    for tried in try_all(setting.run, counts=counts, seed=setting.options.seed):
        found.append(tried)
        print(figures.said(tried), flush=True)
    return found


def run_long(setting: Setting[Reliability]) -> list[LongRun]:
    """Run each for long."""
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
    return found


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
    about="faults: same bits or refused; long runs: no growth",
    minutes=35,
    claim="Every fault is survived; long runs end with equal replicas, no wrong answer, no growth.",
    presets=PRESETS,
    measure=measure,
)
main = STUDY.main

if __name__ == "__main__":
    main()
