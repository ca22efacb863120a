"""Train for many steps on all devices: the copies of each parameter stay equal bit for bit."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

import shampoo_jax
from experiments.harness.run_folder import Run
from experiments.loop.train_step import Params
from experiments.loop.training import train
from experiments.studies.long_runs.memory import Memory
from experiments.studies.long_runs.outcome import LongRun
from shampoo_jax import Blocks

LOOKS = 20
ROWS, FEATURES, CLASSES = 64, 32, 10
WIDTHS = (FEATURES, 64, 64, CLASSES)


def train_long(run: Run, *, steps: int, mesh: Mesh, seed: int) -> LongRun:
    """Train a perceptron with sharded Shampoo; compare the copies at `LOOKS` evaluations."""
    per_epoch = max(1, steps // LOOKS)
    epochs = max(1, steps // per_epoch)
    memory, different = Memory(), []
    start = time.monotonic()

    def look(params: Any) -> dict[str, float]:
        different.append(sum(len(set(digests_of(leaf))) > 1 for leaf in jax.tree.leaves(params)))
        memory.sample(len(different) / epochs)
        return {"different": float(different[-1]), "mebibytes": memory.mebibytes[-1]}

    train(
        run,
        stage="long",
        init_params=init,
        loss=loss,
        tx=shampoo_jax.shampoo(1e-3, weight_decay=1e-2, blocks=Blocks(block_size=32)),
        batches=lambda epoch: drawn_batches(epoch, count=per_epoch, seed=seed),
        epochs=epochs,
        steps_per_epoch=per_epoch,
        seed=seed,
        mesh=mesh,
        evaluate=look,
        log_every=per_epoch,
    )
    seconds = time.monotonic() - start
    wrong = sum(map(bool, different))
    return LongRun("training steps", epochs * per_epoch, len(different), wrong, seconds, memory)


def init(key: jax.Array) -> Params:
    """Draw a perceptron's matrices, named in their order."""
    keys = jax.random.split(key, len(WIDTHS) - 1)
    shapes = zip(keys, WIDTHS, WIDTHS[1:])
    return {f"w{n}": jax.random.normal(k, (a, b)) / a**0.5 for n, (k, a, b) in enumerate(shapes)}


def loss(
    params: Params, batch: Mapping[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Compute the cross-entropy of a batch."""
    del key
    hidden = batch["x"]
    for name in sorted(params)[:-1]:
        hidden = jax.nn.relu(hidden @ params[name])
    logits = hidden @ params[max(params)]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), {}


def drawn_batches(epoch: int, *, count: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Draw points and classes that a linear map gives, a tenth of them wrong."""
    weights = np.random.default_rng(seed).normal(size=(FEATURES, CLASSES))
    draw = np.random.default_rng([seed, epoch])
    for _ in range(count):
        x = draw.normal(size=(ROWS, FEATURES)).astype(np.float32)
        y = (x @ weights).argmax(axis=1)
        noise = draw.random(ROWS) < 0.1
        yield {"x": x, "y": np.where(noise, draw.integers(0, CLASSES, ROWS), y).astype(np.int32)}


def digests_of(array: jax.Array) -> list[str]:
    """Hash what each device holds of an array that all hold whole."""
    return [
        hashlib.sha256(np.asarray(s.data).tobytes()).hexdigest() for s in array.addressable_shards
    ]
