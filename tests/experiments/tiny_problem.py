"""A small classification problem with dropout, and a program that trains it in a run folder.

    python -m tests.experiments.tiny_problem FOLDER [--delay SECONDS]

Tests kill this program and start it again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.harness.devices import make_mesh, select_devices
from experiments.harness.errors import exit_on_input_error
from experiments.harness.options import OneSeed
from experiments.harness.run_folder import open_run
from experiments.loop.training import train

EPOCHS, STEPS, ROWS = 3, 8, 16


def init_params(key):
    keys = jax.random.split(key, 2)
    return {
        "hidden": {"kernel": 0.3 * jax.random.normal(keys[0], (6, 32)), "bias": jnp.zeros(32)},
        "out": {"kernel": 0.3 * jax.random.normal(keys[1], (32, 4))},
    }


def loss(params, batch, key):
    hidden = batch["x"] @ params["hidden"]["kernel"] + params["hidden"]["bias"][None, :]
    keep = jax.random.bernoulli(key, 0.8, hidden.shape)
    logits = jnp.where(keep, jax.nn.tanh(hidden), 0.0) @ params["out"]["kernel"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    return losses.mean(), {"accuracy": (logits.argmax(-1) == batch["y"]).mean()}


def batches(epoch, *, delay=0.0):
    rng = np.random.default_rng([7, epoch])
    for _ in range(STEPS):
        time.sleep(delay)
        x = rng.normal(size=(ROWS, 6)).astype(np.float32)
        yield {"x": x, "y": np.abs(x[:, :4]).argmax(1)}


def evaluate(params):
    key = jax.random.key(1)
    return {"val_loss": jax.jit(loss)(params, next(iter(batches(999))), key)[0]}


def train_tiny(run, *, stage="adamw", devices=1, delay=0.0, **changes):
    """Train in a run folder; `changes` override arguments of `train`."""
    arguments = {
        "init_params": init_params,
        "loss": loss,
        "tx": optax.adamw(1e-2),
        "batches": lambda epoch: batches(epoch, delay=delay),
        "epochs": EPOCHS,
        "steps_per_epoch": STEPS,
        "seed": 3,
        "mesh": make_mesh(jax.devices()[:devices]),
        "evaluate": evaluate,
        "checkpoint_every": 3,
        "log_every": 1,
    }
    return train(run, stage=stage, **{**arguments, **changes})


@exit_on_input_error()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay", type=float, default=0.0)
    arguments = parser.parse_args()
    resume = arguments.folder if arguments.folder.exists() else None
    options = OneSeed(out=None if resume else arguments.folder, resume=resume, devices=2)
    select_devices(options.devices)
    with open_run("tiny_problem", options, arguments=()) as run:
        for stage, tx in (("adamw", optax.adamw(1e-2)), ("sgd", optax.sgd(1e-2))):
            result = train_tiny(
                run,
                stage=stage,
                tx=tx,
                devices=2,
                delay=arguments.delay,
                select="val_loss",
                select_mode="min",
            )
            leaves = jax.tree.leaves(result.params)
            np.savez(run.folder / f"{stage}.npz", *[np.asarray(leaf) for leaf in leaves])


if __name__ == "__main__":
    main()
