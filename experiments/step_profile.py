"""Where an ordinary Shampoo step spends its time: its parts, each timed alone beside the whole.

    python -m experiments.step_profile --sets blocks12     # a minute on 2 CPU cores

The parts are the functions that the step is made of, compiled by themselves on drawn arrays of the
same pools; they take turns with the whole step. What the whole takes beyond their sum is
grafting, moments and what the parts share no longer when they are apart. A second table times the
batched product of XLA by block size, at the same number of parameters.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import shampoo_jax
from experiments.bench.contestants import Contestant, make_contestant
from experiments.bench.parameter_sets import PARAMETER_SETS, read_sets
from experiments.harness.figures import Figures, pick
from experiments.harness.options import OneSeed, check_least
from experiments.harness.plots import Draw, draw_bars
from experiments.harness.report import Table
from experiments.harness.study import Outcome, Setting, Study
from shampoo_jax import Blocks, Refresh
from shampoo_jax.layout import from_pools, to_pools
from shampoo_jax.plan import make_plan
from shampoo_jax.products import along_all, gram, in_chunks

SIDES = (64, 128, 256, 512, 1024)
PARAMETERS = 2**22


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepProfile(OneSeed):
    """Time the parts of a Shampoo step."""

    sets: str = "blocks12"
    """parameter sets, separated by commas"""
    block_size: int = 256
    """largest side of a block"""
    turns: int = 30
    """times that each part is timed"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, block_size=1, turns=1)
        read_sets(self.sets)


PRESETS = {"default": StepProfile(), "smoke": StepProfile(sets="layers200", turns=2)}


def _timed(function, *arguments) -> Contestant:
    compiled = jax.jit(function).lower(*arguments).compile()
    return Contestant(lambda: compiled(*arguments))


def _grams(g: jax.Array, sides: Sequence[int]) -> tuple[jax.Array, ...]:
    """Return the Gram products of blocks along their sides, in chunks as a step does."""

    def one(old, g):
        return tuple(x + gram(g, k) for k, x in zip(sides, old))

    zeros = tuple(jnp.zeros((len(g), g.shape[1 + k], g.shape[1 + k])) for k in sides)
    return in_chunks(one, zeros, g, block=g.shape[1:]) if sides else ()


def parts_of(name: str, *, block_size: int) -> dict[str, Contestant]:
    """Compile the parts of a step on drawn pools."""
    shapes = PARAMETER_SETS[name]()
    plan = make_plan(tuple(shapes.values()), Blocks(block_size=block_size))
    kept = operator.attrgetter("preconditioned")
    keys = iter(jax.random.split(jax.random.key(0), 1000))
    leaves = [jax.random.normal(next(keys), shape) for shape in shapes.values()]
    pools = to_pools(leaves, plan, devices=1, dtype=jnp.float32)
    roots = [
        [jax.random.normal(next(keys), (len(g), pool.dims[k], pool.dims[k])) for k in kept(pool)]
        for pool, g in zip(plan.pools, pools)
    ]

    def grams(pools):
        return [_grams(g, kept(pool)) for pool, g in zip(plan.pools, pools)]

    def applications(pools, roots):
        both = zip(plan.pools, pools, roots)
        return [along_all(g, own, kept(pool)) for pool, g, own in both]

    def unstack(pools, count):
        return from_pools(pools, plan, [jnp.float32] * len(leaves), count)

    return {
        "stack gradients": _timed(
            lambda leaves: to_pools(leaves, plan, devices=1, dtype=jnp.float32), leaves
        ),
        "Gram products": _timed(grams, pools),
        "apply the roots": _timed(applications, pools, roots),
        "unstack directions": _timed(unstack, pools, jnp.int32(1)),
    }


def products_by_side() -> dict[int, Contestant]:
    """Compile X_n Y_n over blocks of each side, together 4 million numbers."""
    contestants = {}
    for side in SIDES:
        x = jax.random.normal(jax.random.key(side), (PARAMETERS // side**2, side, side))
        contestants[side] = _timed(lambda x, y: jnp.einsum("nij,njk->nik", x, y), x, x)
    return contestants


def medians(contestants: dict, turns: int) -> dict:
    """Let all take turns; return each one's median milliseconds, warm-up left out."""
    for _ in range(turns + 1):
        for contestant in contestants.values():
            contestant.take_turn()
    return {key: float(np.median(c.milliseconds[1:])) for key, c in contestants.items()}


def part_table(name: str, options: StepProfile, *, mesh: Mesh) -> tuple[Table, dict[str, float]]:
    """Time the parts beside the whole step, before any root is due."""
    tx = shampoo_jax.shampoo(
        1e-3,
        blocks=Blocks(block_size=options.block_size),
        refresh=Refresh(start_preconditioning_step=10**6),
    )
    with jax.set_mesh(mesh):
        whole = make_contestant(tx, PARAMETER_SETS[name](), mesh=mesh, seed=options.seed)
        parts = parts_of(name, block_size=options.block_size)
        times = medians({"ordinary step": whole, **parts}, options.turns)
    whole_ms = times["ordinary step"]
    times["the rest"] = whole_ms - sum(times[part] for part in parts)
    rows = [[part, ms, ms / whole_ms] for part, ms in times.items()]
    columns = ("part", "ms", "share")
    table = Table(
        title=f"Parts of a step: {name}", columns=columns, baselines=rows[:1], rows=rows[1:]
    )
    return table, {f"{name}/{part}/ms": ms for part, ms in times.items()}


def product_table(turns: int) -> tuple[Table, dict[str, float]]:
    """Time the batched product by block size."""
    times = medians(products_by_side(), turns)
    rows = [[side, ms, 2 * PARAMETERS * side / ms / 1e6] for side, ms in times.items()]
    table = Table(
        title=f"Batched product of {PARAMETERS:,} parameters by side of a block",
        columns=("side", "ms", "GFLOP/s"),
        baselines=rows[-1:],
        rows=rows[:-1],
    )
    return table, {f"products/{side}/ms": ms for side, ms in times.items()}


def part_panels(figures: Figures) -> list[Draw]:
    """Draw the share of every part in its step, and the speed of products by side."""
    panels = []
    for (name,), (whole,) in pick(figures, "(.+)/ordinary step/ms").items():
        parts = pick(figures, f"{name}/(?!ordinary)(.+)/ms")
        shares = {part: (100 * ms / whole,) for (part,), (ms,) in parts.items()}
        title, label = f"An ordinary step: {name}, {whole:.0f} ms", "% of the step"
        panels.append(
            functools.partial(draw_bars, bars=shares, label=label, title=title, neutral=True)
        )
    speeds = {
        f"blocks of {side}": (2 * PARAMETERS * int(side) / ms / 1e6,)
        for (side,), (ms,) in pick(figures, r"products/(\d+)/ms").items()
    }
    draw = functools.partial(draw_bars, bars=speeds, label="GFLOP/s", neutral=True)
    return [*panels, functools.partial(draw, title="Batched products")]


def measure(setting: Setting[StepProfile]) -> Outcome:
    """Time the parts."""
    options = setting.options
    timed = [part_table(name, options, mesh=setting.mesh) for name in read_sets(options.sets)]
    timed.append(product_table(options.turns))
    tables, figures = zip(*timed)
    flat = {key: value for own in figures for key, value in own.items()}
    whole = {key: value for key, value in flat.items() if key.endswith("ordinary step/ms")}
    parts = {key: value for key, value in figures[0].items() if key not in whole}
    longest = max(parts, key=parts.__getitem__)
    return Outcome(
        title="Parts of a Shampoo step",
        intro="An ordinary Shampoo step and its parts, each compiled alone.",
        protocol={"gradients": "fixed random", "order": "parts take turns"},
        metrics={key: value for key, value in flat.items() if key not in whole},
        baselines=whole,
        tables=tables,
        found=f"The longest part is {longest.removesuffix('/ms')}, {parts[longest]:.1f} ms of "
        f"{next(iter(whole.values())):.1f}.",
    )


STUDY = Study(
    name="step_profile",
    about="the parts of a Shampoo step, each timed alone",
    minutes=0.5,
    claim="Most of an ordinary step is its matrix products.",
    presets=PRESETS,
    claim_panels=part_panels,
    measure=measure,
)
main = STUDY.main

if __name__ == "__main__":
    main()
