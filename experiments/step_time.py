"""Time optimizer steps: Shampoo beside AdamW and beside the floor of its own arithmetic.

    python -m experiments.step_time --sets blocks12,sequences_step   # minutes on 2 CPU cores

    python -m experiments.step_time --model nxtpost        # training and serving, in parts
    python -m experiments.step_time --threads              # does OPENBLAS_NUM_THREADS matter?
    python -m experiments.step_time --peer PYTHON          # beside the PyTorch original

A parameter set is stepped with fixed random gradients, without a model. The names that end in
`_step` are whole training steps: forward, backward and update (`experiments.bench.whole_step`). All
contestants of a set take turns step by step in one run, buffers donated, so that a noisy machine
disturbs all alike. "thrifty" gathers statistics every other step and refreshes roots every 20.
A row says:

    ordinary_ms          median step before any root is due (same program)
    refresh_ms           a step that refreshes every root: ordinary + what a cycle spends on roots
    amortised_ms         mean over whole refresh cycles
    floor_ms             the products that a step cannot avoid, nothing else: two Gram products and
                         two applications a block
    amortised_floor_ms   floor_ms + bare eigendecompositions of every factor / frequency
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax
from jax.sharding import Mesh

import shampoo_jax
from experiments.bench import apart, nxtpost_time
from experiments.bench.contestants import Contestant, make_contestant, make_step_contestant
from experiments.bench.parameter_sets import PARAMETER_SETS, read_sets
from experiments.bench.step_floor import eigendecompositions, products
from experiments.bench.whole_step import WHOLE_STEPS
from experiments.harness.figures import Figures, pick
from experiments.harness.names import OPTIMIZERS
from experiments.harness.options import OneSeed, check_least
from experiments.harness.plots import Draw, draw_groups
from experiments.harness.report import Table
from experiments.harness.study import Outcome, Setting, Study
from shampoo_jax import Blocks, Refresh

SETS = (*PARAMETER_SETS, *WHOLE_STEPS)
ALL = ",".join(SETS)
ROW = (
    "set",
    "optimizer",
    "ordinary_ms",
    "refresh_ms",
    "amortised_ms",
    "median_ms",
    "p95_ms",
    "compile_s",
    "hlo_lines",
    "state_bytes",
    "floor_ms",
    "amortised_floor_ms",
    "ratio_to_adamw",
    "ratio_to_muon",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepTime(OneSeed):
    """Time optimizer steps without a model."""

    model: Literal["nxtpost"] | None = None
    """time this model's training and serving (`experiments.bench.nxtpost_time`) in place of sets"""
    nxtpost: nxtpost_time.Size = dataclasses.field(default_factory=nxtpost_time.Size)
    """data and sizes of that model"""
    sets: str = ALL
    """parameter sets and whole steps, separated by commas"""
    threads: bool = False
    """time Shampoo with and without OPENBLAS_NUM_THREADS beside a busy process, in its own ones"""
    peer: Path | None = None
    """an interpreter that can import torch and the PyTorch original; times that beside ours"""
    block_size: int = 256
    """largest side of a block; whole steps take the default"""
    frequency: int = 10
    """steps between refreshes of a root"""
    cycles: int = 6
    """refresh cycles that are timed"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, block_size=1, frequency=1, cycles=1)
        alone = self.threads or self.peer is not None
        read_sets(self.sets, tuple(PARAMETER_SETS) if alone and self.sets != ALL else SETS)


PRESETS = {
    "default": StepTime(),
    "smoke": StepTime(sets="sequences", frequency=3, cycles=2, nxtpost=nxtpost_time.SMALL),
}


def optimizers(options: StepTime) -> dict[str, optax.GradientTransformation]:
    """Build the contestants; roots are due from the second cycle on."""
    blocks = Blocks(block_size=options.block_size)
    refresh = Refresh(
        precondition_frequency=options.frequency,
        start_preconditioning_step=options.frequency * (options.cycles + 1),
    )
    at_once = dataclasses.replace(refresh, stagger=False)
    return {
        "adamw": optax.adamw(1e-3),
        "muon": optax.contrib.muon(1e-3),
        "shampoo": shampoo_jax.shampoo(1e-3, blocks=blocks, refresh=refresh),
        "shampoo, all at once": shampoo_jax.shampoo(1e-3, blocks=blocks, refresh=at_once),
    }


def step_optimizers(options: StepTime) -> dict[str, optax.GradientTransformation]:
    """Build the contestants of whole steps: default blocks, roots due from the first step on."""
    often = Refresh(options.frequency, start_preconditioning_step=1)
    seldom = Refresh(2 * options.frequency, start_preconditioning_step=1, statistics_frequency=2)
    return {
        "adamw": optax.adamw(1e-3),
        "shampoo": shampoo_jax.shampoo(1e-3, refresh=often),
        "thrifty": shampoo_jax.shampoo(1e-3, refresh=seldom),
    }


def time_step(name: str, options: StepTime, *, mesh: Mesh) -> list[dict[str, Any]]:
    """Time a whole training step by every optimizer; return rows of `ROW`."""
    with jax.set_mesh(mesh):
        contestants = {
            optimizer: make_step_contestant(tx, name, mesh=mesh, seed=options.seed)
            for optimizer, tx in step_optimizers(options).items()
        }
        for _ in range(options.frequency * (options.cycles + 1)):
            for contestant in contestants.values():
                contestant.take_turn()
    warmup = options.frequency  # the first cycle
    return _rows(name, {o: c.summary(skip=warmup) for o, c in contestants.items()})


def time_set(name: str, options: StepTime, *, mesh: Mesh) -> list[dict[str, Any]]:
    """Time every optimizer on one parameter set; return rows of `ROW`."""
    shapes = PARAMETER_SETS[name]()
    with jax.set_mesh(mesh):
        contestants = {
            optimizer: make_contestant(tx, shapes, mesh=mesh, seed=options.seed)
            for optimizer, tx in optimizers(options).items()
        }
        floors = {
            "floor": Contestant(products(shapes, block_size=options.block_size)),
            "roots": Contestant(eigendecompositions(shapes, block_size=options.block_size)),
        }
        for floor in floors.values():
            jax.block_until_ready(floor.call())  # compiles
        steps = options.frequency * (2 * options.cycles + 1)
        for step in range(steps):
            for contestant in contestants.values():
                contestant.take_turn()
            if step % options.frequency < 2:
                floors["floor"].take_turn()
            if step % (2 * options.frequency) == 0:
                floors["roots"].take_turn()
    floor = float(np.median(floors["floor"].milliseconds))
    roots = float(np.median(floors["roots"].milliseconds))
    summaries = {o: _with_phases(c, options) for o, c in contestants.items()}
    for optimizer, summary in summaries.items():
        if optimizer.startswith("shampoo"):
            ordinary, amortised = summary["ordinary_ms"], summary["amortised_ms"]
            summary["refresh_ms"] = ordinary + options.frequency * (amortised - ordinary)
            summary["floor_ms"] = floor
            summary["amortised_floor_ms"] = floor + roots / options.frequency
    return _rows(name, summaries)


def _with_phases(contestant: Contestant, options: StepTime) -> dict[str, float]:
    """Summarize a step before roots are due and after; the first cycle warms up.

    The first step at which roots are due is left out: it touches its memory for the first time.
    """
    due = options.frequency * (options.cycles + 1)
    ordinary = contestant.milliseconds[options.frequency : due - 1]
    return contestant.summary(skip=due) | {"ordinary_ms": float(np.median(ordinary))}


def _rows(name: str, summaries: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Complete the summaries of a set's optimizers to rows of `ROW`."""
    rows: list[dict[str, Any]] = [
        {"set": name, "optimizer": o} | summary for o, summary in summaries.items()
    ]
    for rival in ("adamw", "muon"):
        if rival in summaries:
            for row in rows:
                row[f"ratio_to_{rival}"] = row["amortised_ms"] / summaries[rival]["amortised_ms"]
    return [{column: row.get(column) for column in ROW} for row in rows]


def tables_of(rows: Sequence[dict[str, Any]]) -> list[Table]:
    """Lay the rows out, a table a set, AdamW as the baseline."""
    tables = []
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [
            [OPTIMIZERS[row["optimizer"]], *(row[column] for column in ROW[2:])]
            for row in rows
            if row["set"] == name
        ]
        tables.append(Table(title=name, columns=ROW[1:], baselines=own[:1], rows=own[1:]))
    return tables


def _figures(rows: Sequence[dict[str, Any]], *, baselines: bool) -> dict[str, float]:
    return {
        f"{row['set']}/{row['optimizer']}/{column}": row[column]
        for row in rows
        for column in ROW[2:]
        if (row["optimizer"] == "adamw") == baselines and row[column] is not None
    }


def time_panels(figures: Figures) -> list[Draw]:
    """Draw milliseconds per step, of whole steps and of optimizers alone, or of NxtPost's parts."""
    steps: dict[str, dict[str, float]] = {}
    for (name, optimizer), (ms,) in pick(figures, "(.+)/(.+)/amortised_ms").items():
        steps.setdefault(name, {})[OPTIMIZERS[optimizer]] = ms
    whole = {name: group for name, group in steps.items() if name in WHOLE_STEPS}
    alone = {name: group for name, group in steps.items() if name not in WHOLE_STEPS}
    parts: dict[str, dict[str, float]] = {}
    for (optimizer, part), (ms,) in pick(figures, "nxtpost/(adamw|shampoo)/(.+)_ms").items():
        parts.setdefault(part, {})[OPTIMIZERS[optimizer]] = ms
    shown = {
        "Whole training steps": whole,
        "The optimizer alone": alone,
        "A step of NxtPost": parts,
    }
    label = "ms per step, mean over cycles"
    return [
        functools.partial(
            draw_groups,
            groups=groups,
            title=title,
            label="ms per step" if groups is parts else label,
            log=groups is alone,
        )
        for title, groups in shown.items()
        if groups
    ]


def measure(setting: Setting[StepTime]) -> Outcome:
    """Time a model's parts, or the optimizers on sets and whole steps."""
    options = setting.options
    if options.model:
        return _measure_model(options)
    if options.threads or options.peer:
        return _measure_apart(options)
    return _measure_sets(setting)


def _measure_apart(options: StepTime) -> Outcome:
    """Time whole processes that take turns."""
    sets = read_sets(options.sets, SETS) if options.sets != ALL else list(PARAMETER_SETS)
    if options.peer:
        figures, table = apart.peer(
            options.peer, sets, block_size=options.block_size, cycles=options.cycles
        )
    else:
        figures, table = apart.threads(sets, cycles=options.cycles)
    own = {name: ms for name, ms in figures.items() if "/ours" in name or "/not set" in name}
    return Outcome(
        title="Step time, process by process",
        intro="The optimizer's step alone, on fixed random gradients.",
        protocol={"order": "processes take turns", "first cycles": "not timed"},
        metrics=own,
        baselines={name: ms for name, ms in figures.items() if name not in own},
        tables=[table],
    )


def _measure_sets(setting: Setting[StepTime]) -> Outcome:
    options, rows = setting.options, []
    for name in read_sets(options.sets, SETS):
        timed = time_step if name in WHOLE_STEPS else time_set
        rows += timed(name, options, mesh=setting.mesh)
        print(f"{name}: timed", flush=True)
    last = rows[-1]["set"]
    ratio = {row["optimizer"]: row["ratio_to_adamw"] for row in rows if row["set"] == last}
    return Outcome(
        title="Step time",
        intro="The optimizer's step alone; names in `_step` are whole training steps. "
        "Milliseconds unless said otherwise.",
        protocol={"gradients": "fixed random", "order": "contestants take turns"},
        metrics=_figures(rows, baselines=False),
        baselines=_figures(rows, baselines=True),
        tables=tables_of(rows),
        found=f"{last}: Shampoo takes {ratio['shampoo']:.2f} times AdamW's time.",
    )


def _measure_model(options: StepTime) -> Outcome:
    size = options.nxtpost
    figures, tables = nxtpost_time.measure(size, seed=options.seed)
    own = {name: value for name, value in figures.items() if "/adamw/" not in name}
    return Outcome(
        title="NxtPost's speed",
        intro="Training, evaluation and serving of NxtPost on drawn data, on one device.",
        protocol=dataclasses.asdict(size) | {"data": "drawn", "order": "contestants take turns"},
        metrics=own,
        baselines={name: value for name, value in figures.items() if name not in own},
        tables=tables,
        found=f"A request is answered in {figures['nxtpost/serving/request p50 ms']:.2f} ms "
        "(median).",
    )


STUDY = Study(
    name="step_time",
    about="optimizer steps beside their floor; NxtPost's speed",
    minutes=20,
    claim="A training step by Shampoo takes at most 1.1 times the time of one by AdamW.",
    presets=PRESETS,
    claim_panels=time_panels,
    measure=measure,
    times_compilation=True,
)
main = STUDY.main

if __name__ == "__main__":
    main()
