"""What a device holds, computes and receives in one Shampoo step, read off compiled programs.

    python -m experiments.shampoo_scaling --sets blocks12,transformer      # compiles, runs nothing

Replicated parameters, fake CPU devices. A row: bytes of optimizer state on a device and their share
of one device's; floating-point operations of a step on a device as XLA counts them (loops over
roots count once: these are the products and elementwise work); bytes that a device receives in the
all-gather; collectives in the program.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

import shampoo_jax
from experiments.bench.parameter_sets import PARAMETER_SETS, read_sets
from experiments.harness.devices import make_mesh
from experiments.harness.figures import Figures, pick
from experiments.harness.options import Options
from experiments.harness.plots import Draw, draw_groups
from experiments.harness.report import Table
from experiments.harness.study import Outcome, Setting, Study
from experiments.loop.collectives import collective_bytes, count_collectives
from experiments.loop.sharding import replicated
from shampoo_jax import Blocks

COLUMNS = ("devices", "state bytes", "share of one", "operations", "bytes received", "collectives")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling(Options):
    """Compile Shampoo's step for several numbers of devices."""

    sets: str = "blocks12,transformer,sequences,resnet50,layers200"
    """parameter sets, separated by commas"""
    counts: tuple[int, ...] = (1, 8, 64)
    """numbers of devices"""
    block_size: int = 256
    """largest side of a block"""

    def __post_init__(self) -> None:
        super().__post_init__()
        read_sets(self.sets)


PRESETS = {"default": Scaling(), "smoke": Scaling(sets="sequences", counts=(1, 2))}


def measure(name: str, count: int, *, block_size: int) -> dict[str, Any]:
    """Compile one step for `count` devices."""
    mesh, blocks = make_mesh(jax.devices()[:count]), Blocks(block_size=block_size)
    tx = shampoo_jax.shampoo(1e-3, blocks=blocks)
    with jax.set_mesh(mesh):
        params = {
            key: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=replicated(mesh))
            for key, shape in PARAMETER_SETS[name]().items()
        }
        state = jax.eval_shape(tx.init, params)
        layout = shampoo_jax.state_sharding(state, mesh)
        state = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, layout
        )
        compiled = jax.jit(tx.update, donate_argnums=1).lower(params, state, params).compile()
    text, cost = compiled.as_text() or "", compiled.cost_analysis() or {}
    return {
        "state_bytes": shampoo_jax.memory(params, devices=count, blocks=blocks)["total"],
        "operations": cost["flops"],
        "bytes_received": collective_bytes(text, ["all-gather"]) * (count - 1) // count,
        "collectives": count_collectives(text),
    }


def table_of(name: str, rows: dict[int, dict[str, Any]]) -> Table:
    """Lay out the rows of a set; the smallest number of devices is the baseline."""
    one = rows[min(rows)]["state_bytes"]
    cells = [
        [
            count,
            row["state_bytes"],
            row["state_bytes"] / one,
            int(row["operations"]),
            row["bytes_received"],
            row["collectives"],
        ]
        for count, row in sorted(rows.items())
    ]
    return Table(title=name, columns=COLUMNS, baselines=cells[:1], rows=cells[1:])


def device_panels(figures: Figures) -> list[Draw]:
    """Draw what a device holds and computes, in per cent of what one of the fewest does."""
    counts = sorted({int(count) for _, count in pick(figures, r"(.+)/(\d+)/state_bytes")})
    if len(counts) < 2:
        return []

    def shares(figure: str) -> dict[str, dict[str, float]]:
        own = pick(figures, rf"(.+)/(\d+)/{figure}")
        return {
            name: {
                f"{count} devices": 100 * own[name, str(count)][0] / own[name, str(counts[0])][0]
                for count in counts[1:]
            }
            for name in dict.fromkeys(name for name, _ in own)
        }

    titles = {"state_bytes": "Optimizer state per device", "operations": "Operations per device"}
    return [
        functools.partial(
            draw_groups,
            groups=shares(figure),
            label=f"% of that on {counts[0]} device{'s' * (counts[0] > 1)}",
            title=title,
            shades=True,
        )
        for figure, title in titles.items()
    ]


def measure_sets(setting: Setting[Scaling]) -> Outcome:
    """Compile every set for every number of devices."""
    options = setting.options
    results = {
        name: {
            count: measure(name, count, block_size=options.block_size) for count in options.counts
        }
        for name in read_sets(options.sets)
    }
    figures = {
        (count, f"{name}/{count}/{figure}"): value
        for name, rows in results.items()
        for count, row in rows.items()
        for figure, value in row.items()
    }
    least, most = min(options.counts), max(options.counts)
    name, rows = next(iter(results.items()))
    share = rows[most]["state_bytes"] / rows[least]["state_bytes"]
    return Outcome(
        title="Shampoo by devices",
        intro="One Shampoo step per device, read off compiled programs.",
        protocol={"programs": "compiled for CPU, not run", "parameters": "replicated"},
        metrics={key: value for (count, key), value in figures.items() if count != least},
        baselines={key: value for (count, key), value in figures.items() if count == least},
        tables=[table_of(name, rows) for name, rows in results.items()],
        found=f"On {most} devices a device holds {share:.3f} of the state that one of {least} "
        f"holds ({name}), with {rows[most]['collectives']} collective(s) per step.",
    )


STUDY = Study(
    name="shampoo_scaling",
    about="bytes, operations, collectives per device",
    minutes=2,
    claim="State and work per device fall with the number of devices, by one all-gather per step.",
    presets=PRESETS,
    claim_panels=device_panels,
    measure=measure_sets,
    devices=lambda options: options.devices or max(options.counts),
)
main = STUDY.main

if __name__ == "__main__":
    main()
