"""Time optimizer steps: Shampoo beside AdamW and beside the floor of its own arithmetic.

    python -m experiments.step_time --sets blocks12,sequences_step   # minutes on 2 CPU cores

    python -m experiments.step_time --model nxtpost        # training and serving, in parts

A parameter set is stepped with fixed random gradients, without a model. The names that end in
`_step` are whole training steps: forward, backward and update (`experiments.bench.whole_step`). All
contestants of a set take turns step by step in one run, buffers donated, so that a noisy machine
disturbs all alike. "thrifty" gathers statistics every 4 steps and refreshes roots every 40. A row
says:

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
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
import optax
from jax.sharding import Mesh

import shampoo_jax
from experiments.bench import nxtpost_time
from experiments.bench.parameter_sets import PARAMETER_SETS, Shapes, read_sets
from experiments.bench.step_floor import eigendecompositions, products
from experiments.bench.whole_step import WHOLE_STEPS
from experiments.harness.figures import Figures, pick
from experiments.harness.names import OPTIMIZERS
from experiments.harness.options import OneSeed, check_least
from experiments.harness.plots import Draw, draw_groups
from experiments.harness.report import Table
from experiments.harness.study import Outcome, Setting, Study
from experiments.loop.sharding import replicated, shard_batch
from experiments.loop.train_step import (
    compile_step,
    init_state,
    make_step,
    shardings_of,
    state_layout,
)
from shampoo_jax import Blocks, Refresh

SETS = (*PARAMETER_SETS, *WHOLE_STEPS)
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
    sets: str = ",".join(SETS)
    """parameter sets and whole steps, separated by commas"""
    block_size: int = 256
    """largest side of a block; whole steps take the default"""
    frequency: int = 10
    """steps between refreshes of a root"""
    cycles: int = 6
    """refresh cycles that are timed"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, block_size=1, frequency=1, cycles=1)
        read_sets(self.sets, SETS)


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
    seldom = Refresh(4 * options.frequency, start_preconditioning_step=1, statistics_frequency=4)
    return {
        "adamw": optax.adamw(1e-3),
        "shampoo": shampoo_jax.shampoo(1e-3, refresh=often),
        "thrifty": shampoo_jax.shampoo(1e-3, refresh=seldom),
    }


@dataclasses.dataclass
class Contestant:
    """One compiled call that is repeated; `call` keeps its own state."""

    call: Callable[[], Any]
    compiled: dict[str, float] = dataclasses.field(default_factory=dict)  # columns of `ROW`
    milliseconds: list[float] = dataclasses.field(default_factory=list)

    def take_turn(self) -> None:
        """Call once and note how long it took."""
        start = time.perf_counter()
        jax.block_until_ready(self.call())
        self.milliseconds.append(1e3 * (time.perf_counter() - start))

    def summary(self, *, skip: int) -> dict[str, float]:
        """Return what is known of the program, and of its times after the first `skip` ones."""
        working = self.milliseconds[skip:]
        return self.compiled | {
            "amortised_ms": float(np.mean(working)),
            "median_ms": float(np.median(working)),
            "p95_ms": float(np.percentile(working, 95)),
        }


def _program(compiled, opt_state, *, seconds: float) -> dict[str, float]:
    """Describe a compiled step by columns of `ROW`; the state's bytes are those of one device."""
    leaves = jax.tree.leaves(opt_state)
    return {
        "compile_s": seconds,
        "hlo_lines": len(compiled.as_text().splitlines()),
        "state_bytes": sum(x.addressable_shards[0].data.nbytes for x in leaves),
    }


def _draw(shapes: Shapes, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def make_contestant(
    tx: optax.GradientTransformation, shapes: Shapes, *, mesh: Mesh, seed: int
) -> Contestant:
    """Compile an optimizer's step on the mesh of the context."""
    grads = jax.device_put(_draw(shapes, seed), replicated(mesh))
    params = jax.device_put(_draw(shapes, seed + 1), replicated(mesh))
    layout = shampoo_jax.state_sharding(jax.eval_shape(tx.init, params), mesh)
    state = jax.jit(tx.init, out_shardings=layout)(params)

    def update(state, params, grads):
        updates, state = tx.update(grads, state, params)
        return state, optax.apply_updates(params, updates)

    start = time.perf_counter()
    outputs = (shardings_of(state), shardings_of(params))
    jitted = jax.jit(update, donate_argnums=(0, 1), out_shardings=outputs)
    compiled = jitted.lower(state, params, grads).compile()
    program = _program(compiled, state, seconds=time.perf_counter() - start)
    carry = [state, params]

    def call():
        carry[:] = compiled(*carry, grads)
        return carry

    return Contestant(call, program)


def make_step_contestant(
    tx: optax.GradientTransformation, name: str, *, mesh: Mesh, seed: int
) -> Contestant:
    """Compile a whole training step on the mesh of the context."""
    problem = WHOLE_STEPS[name]()
    layout = state_layout(
        problem.init_params, tx, mesh=mesh, opt_state_sharding=shampoo_jax.state_sharding
    )
    state = init_state(problem.init_params, tx, layout=layout, seed=seed)
    batch = shard_batch(problem.batch, mesh)
    start = time.perf_counter()
    compiled = compile_step(make_step(problem.loss, tx, seed=seed), state, batch=batch, mesh=mesh)
    program = _program(compiled, state.opt_state, seconds=time.perf_counter() - start)
    carry = [state]

    def call():
        carry[0], metrics = compiled(carry[0], batch)
        return carry[0], metrics

    return Contestant(call, program)


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
    return _measure_model(setting.options) if setting.options.model else _measure_sets(setting)


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
