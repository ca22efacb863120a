"""One process that times an optimizer's step and prints it: `experiments.bench.processes`.

python -m experiments.bench.step_worker '{"set": "blocks12", "optimizer": "shampoo"}'
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import Literal

import jax
import optax

import shampoo_jax
from experiments.bench.parameter_sets import PARAMETER_SETS, draw
from shampoo_jax import Blocks, Refresh, Root

WARMUP = 2  # refresh cycles before the clock starts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """What is timed.

    Attributes:
      set: parameter set.
      optimizer: "equal" is Shampoo with the options of the PyTorch original.
      block_size: largest side of a block.
      frequency: steps between two refreshes, all blocks at once.
      cycles: refresh cycles that are timed.
      clock: "wall", or "cpu": the seconds of all threads of this process.
    """

    set: str
    optimizer: Literal["adamw", "shampoo", "equal"]
    block_size: int = 128
    frequency: int = 10
    cycles: int = 3
    clock: Literal["wall", "cpu"] = "cpu"


def make(order: Order) -> optax.GradientTransformation:
    """Build the optimizer."""
    refresh = Refresh(order.frequency, stagger=False)
    if order.optimizer == "adamw":
        return optax.adamw(1e-3)
    if order.optimizer == "shampoo":
        return shampoo_jax.shampoo(1e-3, blocks=Blocks(order.block_size), refresh=refresh)
    blocks = Blocks(
        order.block_size,
        target_dimensionality=1,
        exponents=lambda shape: (1 / (2 * len(shape)),) * len(shape),
    )
    root = Root(relative_eps=False)
    return shampoo_jax.shampoo(1e-3, eps=1e-6, blocks=blocks, refresh=refresh, root=root)


def milliseconds(order: Order) -> list[float]:
    """Time the steps of whole refresh cycles."""
    tx, shapes = make(order), PARAMETER_SETS[order.set]()
    grads, params = (jax.device_put(draw(shapes, seed)) for seed in (0, 1))

    def update(state, params, grads):
        updates, state = tx.update(grads, state, params)
        return state, optax.apply_updates(params, updates)

    step = jax.jit(update, donate_argnums=(0, 1))
    state = jax.jit(tx.init)(params)
    clock = time.perf_counter if order.clock == "wall" else time.process_time
    times = []
    for _ in range((WARMUP + order.cycles) * order.frequency):
        start = clock()
        state, params = jax.block_until_ready(step(state, params, grads))
        times.append(1e3 * (clock() - start))
    return times[WARMUP * order.frequency :]


if __name__ == "__main__":
    print(json.dumps({"milliseconds": milliseconds(Order(**json.loads(sys.argv[1])))}))
