"""Compiled calls that take turns within one process."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

import shampoo_jax
from experiments.bench.parameter_sets import Shapes, draw
from experiments.bench.whole_step import WHOLE_STEPS
from experiments.loop.sharding import replicated, shard_batch
from experiments.loop.train_step import (
    compile_step,
    init_state,
    make_step,
    shardings_of,
    state_layout,
)


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


def make_contestant(
    tx: optax.GradientTransformation, shapes: Shapes, *, mesh: Mesh, seed: int
) -> Contestant:
    """Compile an optimizer's step on the mesh of the context."""
    grads = jax.device_put(draw(shapes, seed), replicated(mesh))
    params = jax.device_put(draw(shapes, seed + 1), replicated(mesh))
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
    layout = state_layout(problem.init_params, tx, mesh=mesh)
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
