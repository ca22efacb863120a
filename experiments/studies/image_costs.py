"""What reading photographs and a training step on them cost."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from experiments.data.image_reader import ImageReader
from experiments.harness.devices import make_mesh
from experiments.harness.names import OPTIMIZERS
from experiments.harness.report import Table
from experiments.harness.study import Outcome, Setting
from experiments.loop.collectives import collective_bytes, count_collectives
from experiments.loop.parameter_average import exponential
from experiments.loop.sharding import rules_of
from experiments.loop.train_step import compile_step, make_step, specs_of, state_layout
from experiments.studies.image_options import Images, network, optimizer
from experiments.tasks.image_folder_task import epoch_of


def measure_reader(setting: Setting[Images]) -> Outcome:
    """Time the reader alone, in this process and in workers."""
    options, folders = setting.options, setting.inputs
    files, size = folders.training, options.batch_size
    speeds = {}
    for workers in sorted({0, 1, options.workers}):
        with ImageReader(files, side=options.side, workers=workers) as reader:
            batches = epoch_of(reader, len(files.paths), batch_size=size, seed=options.seed)(0)
            next(batches)  # workers have started
            start, count = time.perf_counter(), 0
            for batch in batches:
                count += len(batch["labels"])
            speeds[workers] = count / (time.perf_counter() - start)
    rows = [[workers, speed] for workers, speed in speeds.items()]
    return Outcome(
        title="Images per second",
        intro=f"{folders.name.name}: random crops of {options.side} pixels, one epoch.",
        protocol={"batch": size},
        metrics={f"workers {n}/images_per_second": speed for n, speed in speeds.items() if n},
        baselines={"workers 0/images_per_second": speeds[0]},
        tables=[
            Table(
                title="Reading alone",
                columns=("workers", "images per second"),
                baselines=rows[:1],
                rows=rows[1:],
                note="0 workers: in the process itself.",
            )
        ],
    )


def measure_cost(options: Images) -> Outcome:
    """Compile a step for several numbers of devices."""
    rows = {count: cost_of(options, count) for count in options.counts}
    columns = tuple(next(iter(rows.values())))
    cells = [[count, *row.values()] for count, row in sorted(rows.items())]
    return Outcome(
        title="What a step takes",
        intro=f"{options.model} by {OPTIMIZERS[options.recipe]}, {options.batch_size} images of "
        f"{options.side} pixels over all devices, read off compiled programs.",
        protocol={"programs": "compiled for CPU, not run"},
        metrics={f"{n}/{key}": value for n, row in rows.items() for key, value in row.items()},
        baselines={},
        tables=[
            Table(
                title="Per device",
                columns=("devices", *columns),
                baselines=cells[:1],
                rows=cells[1:],
                note="Loops over roots count once.",
            )
        ],
    )


def cost_of(options: Images, count: int) -> dict[str, float]:
    """Compile one training step for `count` devices."""
    mesh = make_mesh(jax.devices()[:count])
    classifier = network(options, classes=1000)
    with jax.set_mesh(mesh):
        tx = optimizer(options, steps_per_epoch=1000)
        layout = state_layout(
            classifier.init_params,
            tx,
            mesh=mesh,
            rules=rules_of(options.layout),
            averaged=True,
        )
        rows = jax.NamedSharding(mesh, jax.P("data"))
        shape = (options.batch_size, options.side, options.side, 3)
        batch: Any = {
            "images": jax.ShapeDtypeStruct(shape, np.uint8, sharding=rows),
            "labels": jax.ShapeDtypeStruct(shape[:1], np.int32, sharding=rows),
        }
        how = {"param_specs": specs_of(layout), "average": exponential(options.average)}
        step = make_step(classifier.loss, tx, seed=0, **how)
        compiled: Any = compile_step(step, layout, batch=batch, mesh=mesh)
    memory, text = compiled.memory_analysis(), compiled.as_text() or ""
    return {
        "operations": float((compiled.cost_analysis() or {})["flops"]),
        "parameter bytes": _bytes_per_device(layout.params),
        "optimizer bytes": _bytes_per_device((layout.opt_state, layout.average)),
        "temporary bytes": float(memory.temp_size_in_bytes),
        "bytes of collectives": float(collective_bytes(text)),
        "collectives": float(count_collectives(text)),
    }


def _bytes_per_device(layout: Any) -> float:
    leaves = jax.tree.leaves(layout)
    shapes = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype.itemsize) for leaf in leaves]
    return float(sum(int(np.prod(shape)) * size for shape, size in shapes))
