"""Time one optimizer step alone, Shampoo against AdamW, on the shapes of a small Transformer.

    python -m experiments.step_time           # about two minutes on 2 CPU cores

Gradients are fixed random numbers; forward and backward passes are not part of it. The table shows
the median step, the 95th percentile (a step that refreshes roots is slower) and the compilation.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import jax
import numpy as np
import optax

import shampoo_jax
from experiments.errors import bad_input, exit_on_input_error
from experiments.options import Options, parse, select_devices
from experiments.report import Table, print_table, write_report
from experiments.results import check_keep, keep_result
from experiments.run_folder import open_run
from experiments.sharding import make_mesh, replicated
from experiments.train_step import Params, shardings_of, state_layout


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepTime(Options):
    """Time optimizer steps without a model."""

    width: int = 256
    """model width d; a layer has the shapes 4 x [d, d], [d, 4 d] and [4 d, d]"""
    layers: int = 4
    """number of layers"""
    steps: int = 60
    """steps that are timed, after as many as a refresh needs"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "layers", "steps"):
            if getattr(self, name) < 1:
                raise bad_input(f"--{name}", expected="at least 1", found=getattr(self, name))


PRESETS = {"default": StepTime(), "smoke": StepTime(width=32, layers=1, steps=5)}
OPTIMIZERS = {
    "adamw": optax.adamw(1e-3),
    "shampoo, staggered": shampoo_jax.shampoo(1e-3, stagger=True),
    "shampoo, all at once": shampoo_jax.shampoo(1e-3, stagger=False),
}
WARM_UP = 11  # the first refresh of the default frequency, 10 steps, is over


def transformer_shapes(*, width: int, layers: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return the parameter shapes of a Transformer without its embedding."""
    square = {name: (width, width) for name in ("query", "key", "value", "out")}
    layer = {**square, "up": (width, 4 * width), "down": (4 * width, width), "norm": (width,)}
    return {f"layer_{i}": layer for i in range(layers)}


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds of single steps and seconds of compilation."""

    milliseconds: list[float]
    compile_seconds: float


def time_optimizer(
    tx: optax.GradientTransformation,
    shapes: dict[str, dict[str, tuple[int, ...]]],
    *,
    mesh: jax.sharding.Mesh,
    steps: int,
    seed: int,
) -> Timing:
    """Time `steps` updates, each waited for, after a warm-up."""
    rng = np.random.default_rng(seed)
    grads = {
        layer: {name: rng.normal(size=shape).astype(np.float32) for name, shape in arrays.items()}
        for layer, arrays in shapes.items()
    }

    def init(key: jax.Array) -> Params:
        del key
        return jax.tree.map(lambda grad: jax.numpy.ones_like(grad), grads)

    with jax.set_mesh(mesh):
        layout = state_layout(init, tx, mesh, opt_state_sharding=shampoo_jax.state_sharding)
        params = jax.device_put(init(jax.random.key(0)), replicated(mesh))
        opt_state = jax.jit(tx.init, out_shardings=shardings_of(layout.opt_state))(params)
        return _time(tx, jax.device_put(grads, replicated(mesh)), opt_state, params, steps=steps)


def _time(
    tx: optax.GradientTransformation,
    grads: Params,
    opt_state: optax.OptState,
    params: Params,
    *,
    steps: int,
) -> Timing:
    def update(
        opt_state: optax.OptState, params: Params, grads: Params
    ) -> tuple[optax.OptState, Params]:
        updates, opt_state = tx.update(grads, opt_state, params)
        return opt_state, optax.apply_updates(params, updates)

    start = time.perf_counter()
    jitted = jax.jit(
        update, donate_argnums=(0, 1), out_shardings=(shardings_of(opt_state), shardings_of(params))
    )
    compiled = jitted.lower(opt_state, params, grads).compile()
    compile_seconds = time.perf_counter() - start
    milliseconds = []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        opt_state, params = jax.block_until_ready(compiled(opt_state, params, grads))
        milliseconds.append(1e3 * (time.perf_counter() - start))
    return Timing(milliseconds[WARM_UP:], compile_seconds)


def table_of(timings: dict[str, Timing], *, options: StepTime) -> Table:
    """Lay the timings out with AdamW as the baseline."""
    rows = [
        (name, *np.percentile(timing.milliseconds, (50, 95)).tolist(), timing.compile_seconds)
        for name, timing in timings.items()
    ]
    return Table(
        title=f"Optimizer step alone: {options.layers} layers of width {options.width}",
        columns=("optimizer", "median ms", "p95 ms", "compile s"),
        baselines=rows[:1],
        rows=rows[1:],
    )


@exit_on_input_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Time the optimizers and write the run folder."""
    options, arguments = parse("step_time", PRESETS, argv)
    check_keep(options.keep)
    mesh = make_mesh(select_devices(options.devices))
    shapes = transformer_shapes(width=options.width, layers=options.layers)
    with open_run("step_time", options, arguments=arguments) as run:
        timings = {
            name: time_optimizer(tx, shapes, mesh=mesh, steps=options.steps, seed=options.seed)
            for name, tx in OPTIMIZERS.items()
        }
        figures = {
            f"{name}/median_ms": float(np.median(timing.milliseconds))
            for name, timing in timings.items()
        }
        summary = run.write_summary(
            protocol={"gradients": "fixed random", "warm_up_steps": WARM_UP},
            metrics={name: value for name, value in figures.items() if "shampoo" in name},
            baselines={name: value for name, value in figures.items() if "shampoo" not in name},
            seeds=[options.seed],
            devices=list(mesh.devices.flat),
        )
        table = table_of(timings, options=options)
        print_table(table)
        intro = "The optimizer's step alone, without a model."
        write_report(run, title="Step time", intro=intro, summary=summary, tables=[table])
        if options.keep:
            keep_result(run, name=options.keep)
        print(f"run folder: {run.folder}")


if __name__ == "__main__":
    main()
