"""Milliseconds per training step of several optimizers, measured in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

from experiments.loop.sharding import shard_batch
from experiments.loop.train_step import compile_step, init_state, make_step, state_layout
from experiments.studies.optimizers.factories import FACTORIES, make_optimizer
from experiments.studies.optimizers.spaces import Point
from experiments.studies.optimizers.trials import Trainer

TURN = 10  # steps: between two of them every root of the defaults is refreshed once
SKIPPED = 2  # turns until roots are there and memory is warm


def step_milliseconds(
    trainer: Trainer, points: Mapping[str, Point], *, turns: int, seed: int
) -> dict[str, float]:
    """Return the median over turns of the mean time of a step, in milliseconds.

    Optimizers take turns of `TURN` steps on one batch, so that what else the machine does meets
    all of them; the median leaves out turns that something else disturbed. Their order is drawn
    anew for each turn: another job's slices of time may be as long as a turn.
    """
    rng = np.random.default_rng(seed)
    with jax.set_mesh(trainer.mesh):
        calls = {name: _caller(trainer, name, point, seed=seed) for name, point in points.items()}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(SKIPPED + turns):
            for name in rng.permutation(list(calls)):
                call = calls[name]
                start = time.perf_counter()
                for _ in range(TURN):
                    jax.block_until_ready(call())
                times[name].append(1e3 * (time.perf_counter() - start) / TURN)
    return {name: float(np.median(own[SKIPPED:])) for name, own in times.items()}


def _caller(trainer: Trainer, name: str, point: Point, *, seed: int) -> Callable[[], object]:
    """Compile an optimizer's training step and return it as a call that keeps its own state."""
    task, mesh = trainer.task, trainer.mesh
    tx = make_optimizer(FACTORIES[name], point, steps=trainer.steps)
    layout = state_layout(task.init_params, tx, mesh=mesh)
    carry = [init_state(task.init_params, tx, layout=layout, seed=seed)]
    batch = shard_batch(next(iter(task.batches(0, 1, seed))), mesh)
    step = compile_step(make_step(task.loss, tx, seed=seed), carry[0], batch=batch, mesh=mesh)

    def call() -> object:
        carry[0], scalars = step(carry[0], batch)
        return scalars

    return call
