"""The small run that faults are done to: a perceptron by sharded Shampoo, with many checkpoints.

    python -m experiments.studies.faults.small_run --out FOLDER --devices 2

It is a command like all others, also of several processes. Its summary has a digest of the state
that it ends with, so that two runs are compared bit for bit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

import shampoo_jax
from experiments.harness.errors import bad_input
from experiments.harness.options import OneSeed, check_least
from experiments.harness.study import Outcome, Setting, Study
from experiments.loop.sharding import readable
from experiments.loop.training import train
from experiments.studies.long_runs.training import drawn_batches, init, loss
from shampoo_jax import Blocks

NAME = "studies.faults.small_run"
STAGE = "small"
STEPS = 8  # per epoch
EPOCHS = 4
TOTAL = EPOCHS * STEPS
EVERY = 5  # steps between checkpoints; the last one has one too
PAUSE = 0.05  # seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallRun(OneSeed):
    """Train a perceptron for a few steps."""

    pause: float = PAUSE
    """seconds before each batch, and four times as long in an evaluation"""
    poisoned: tuple[int, ...] = ()
    """batches, from 0, that are NaN"""
    without: tuple[int, ...] = ()
    """batches that are left out, whole epochs of them"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, pause=0.0)
        if len(set(self.without)) % STEPS:
            expected = f"a multiple of {STEPS} batches"
            raise bad_input("--without", expected=expected, found=str(len(set(self.without))))
        for flag, numbers in (("--poisoned", self.poisoned), ("--without", self.without)):
            for number in numbers:
                if not 0 <= number < TOTAL:
                    raise bad_input(flag, expected=f"0 to {TOTAL - 1}", found=str(number))

    @property
    def numbers(self) -> list[int]:
        """The batches that are trained on, in their order."""
        return [number for number in range(TOTAL) if number not in self.without]

    def batches(self, epoch: int) -> Iterator[dict[str, np.ndarray]]:
        """Draw an epoch's batches, each by its own number."""
        for number in self.numbers[epoch * STEPS : (epoch + 1) * STEPS]:
            time.sleep(self.pause)
            batch = next(drawn_batches(number, count=1, seed=self.seed))
            if number in self.poisoned:
                batch["x"] = np.full_like(batch["x"], np.nan)
            yield batch


def measure(setting: Setting[SmallRun]) -> Outcome:
    """Train, and name the state."""
    options = setting.options
    held_out = next(drawn_batches(TOTAL, count=1, seed=options.seed))
    compute = jax.jit(loss)

    def evaluate(params: Any) -> Mapping[str, float]:
        time.sleep(4 * options.pause)
        return {"val_loss": compute(params, held_out, jax.random.key(0))[0]}

    result = train(
        setting.run,
        stage=STAGE,
        init_params=init,
        loss=loss,
        tx=shampoo_jax.shampoo(1e-3, weight_decay=1e-2, blocks=Blocks(block_size=32)),
        batches=options.batches,
        epochs=len(options.numbers) // STEPS,
        steps_per_epoch=STEPS,
        seed=options.seed,
        mesh=setting.mesh,
        evaluate=evaluate,
        checkpoint_every=EVERY,
        log_every=1,
    )
    state = readable((result.params, result.opt_state), setting.mesh)
    return Outcome(
        title="A small run",
        intro="Faults are done to it.",
        protocol={"state": digest_of(state)},
        metrics={"val_loss": result.history[-1]["val_loss"]},
        baselines={},
        tables=[],
    )


def digest_of(state: Any) -> str:
    """Hash a tree of arrays: names, dtypes, shapes and every bit."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


STUDY = Study(
    name=NAME,
    about="a small run that faults are done to",
    minutes=0.1,
    claim="It ends with the same bits whatever happens in between.",
    presets={"default": SmallRun()},
    measure=measure,
)
main = STUDY.main

if __name__ == "__main__":
    main()
