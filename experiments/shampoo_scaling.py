"""What a device holds, computes and receives in one Shampoo step, read off compiled programs.

    python -m experiments.shampoo_scaling --sets blocks12,transformer      # compiles, runs nothing

Replicated parameters, fake CPU devices. A row: bytes of optimizer state on a device and their share
of one device's; floating-point operations of a step on a device as XLA counts them (loops over
roots count once: these are the products and elementwise work); bytes that a device receives in the
all-gather; collectives in the program.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

import shampoo_jax
from experiments.bench.parameter_sets import PARAMETER_SETS, read_sets
from experiments.harness.errors import exit_on_input_error
from experiments.harness.options import Options, parse, select_devices
from experiments.harness.report import Table, print_table, write_report
from experiments.harness.results import check_keep, finish
from experiments.harness.run_folder import open_run
from experiments.loop.sharding import make_mesh, replicated

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
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


def count_collectives(text: str) -> int:
    """Count the collectives in the text of a compiled program."""
    return sum(len(re.findall(rf" {kind}(?:-start)?\(", text)) for kind in COLLECTIVES)


def gathered_bytes(text: str) -> int:
    """Sum the sizes of what all-gathers return, in bytes."""
    total = 0
    for kind, dims in re.findall(r"= (\w+)\[([\d,]*)\]\S* all-gather\(", text):
        size = 1
        for dim in dims.split(","):
            size *= int(dim or 1)
        total += size * jnp.dtype({"f32": "float32", "bf16": "bfloat16"}[kind]).itemsize
    return total


def measure(name: str, count: int, *, block_size: int) -> dict[str, Any]:
    """Compile one step for `count` devices."""
    mesh = make_mesh(jax.devices()[:count])
    tx = shampoo_jax.shampoo(1e-3, block_size=block_size)
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
    text = compiled.as_text()
    return {
        "state_bytes": shampoo_jax.memory(params, devices=count, block_size=block_size)["total"],
        "operations": compiled.cost_analysis()["flops"],
        "bytes_received": gathered_bytes(text) * (count - 1) // count,
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


@exit_on_input_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Compile, print the tables and write the run folder."""
    options, arguments = parse("shampoo_scaling", PRESETS, argv)
    check_keep(options.keep)
    devices = select_devices(options.devices or max(options.counts))
    with open_run("shampoo_scaling", options, arguments=arguments) as run:
        results, tables = {}, []
        for name in read_sets(options.sets):
            results[name] = {
                count: measure(name, count, block_size=options.block_size)
                for count in options.counts
            }
            tables.append(table_of(name, results[name]))
            print_table(tables[-1])
        figures = {
            (count, f"{name}/{count}/{figure}"): value
            for name, rows in results.items()
            for count, row in rows.items()
            for figure, value in row.items()
        }
        least = min(options.counts)
        summary = run.write_summary(
            protocol={"programs": "compiled for CPU, not run", "parameters": "replicated"},
            metrics={key: value for (count, key), value in figures.items() if count != least},
            baselines={key: value for (count, key), value in figures.items() if count == least},
            seeds=[],
            devices=devices,
        )
        intro = "One Shampoo step a device, read off compiled programs."
        write_report(run, title="Shampoo by devices", intro=intro, summary=summary, tables=tables)
        finish(run, keep=options.keep)


if __name__ == "__main__":
    main()
