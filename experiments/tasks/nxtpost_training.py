"""The options that commands train NxtPost by, and the training itself."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import optax
from jax.sharding import Mesh

import nxtpost_jax
from experiments.harness.errors import bad_input
from experiments.harness.options import (
    ManySeeds,
    WithEvents,
    WithLayout,
    check_above_zero,
    check_least,
)
from experiments.harness.run_folder import Run
from experiments.loop.training import TrainResult
from experiments.tasks.next_item import Evaluate, Problem, train_nxtpost
from nxtpost_jax import NxtPost, NxtPostConfig, Objective
from nxtpost_jax.training.averages import MOST
from nxtpost_jax.training.optimizers import Word, warmed_up


@dataclasses.dataclass(frozen=True, kw_only=True)
class NxtPostOptions(ManySeeds, WithEvents, WithLayout):
    """Train NxtPost and rank each user's next item among all items."""

    optimizer: Literal["adamw", "shampoo", "both"] = "both"
    """who trains"""
    epochs: int = 100
    """passes over the training data at most"""
    patience: int = 10
    """evaluations in a row without a new best that end a training"""
    evaluate_every: int = 2
    """epochs between evaluations of the validation split"""
    batch_size: int = 128
    """windows of histories a step"""
    buckets: int = 3
    """widths of rows, each half the next: short histories share narrow rows, more of them a step"""
    adamw_rate: float = 1e-3
    """peak learning rate of AdamW"""
    shampoo_rate: float = 2e-3
    """peak learning rate of Shampoo"""
    schedule: Literal["constant", "cosine"] = "constant"
    """learning rate after the first epoch's warm-up: constant, or falling to 0 at the last epoch"""
    weight_decay: float = 0.0
    """decoupled decay of both optimizers"""
    average: float = 0.0
    """mean age of the parameters in the average of all steps' that is validated and tested, as a
    share of the steps; 0: none"""
    content_dim: int = 128
    """features of the text embeddings; 0 leaves content out"""
    model: NxtPostConfig = dataclasses.field(default_factory=NxtPostConfig.default)
    """the towers"""
    objective: Objective = dataclasses.field(default_factory=Objective)
    """the training objective"""

    def __post_init__(self) -> None:
        super().__post_init__()
        ones = ("epochs", "patience", "evaluate_every", "batch_size", "buckets")
        check_least(self, **dict.fromkeys(ones, 1), content_dim=0, weight_decay=0)
        check_above_zero(self, "adamw_rate", "shampoo_rate")
        if not 0 <= self.average <= MOST:
            expected = f"a share in [0, {MOST}]"
            raise bad_input("--average", expected=expected, found=str(self.average))

    @property
    def optimizers(self) -> tuple[Word, ...]:
        """The optimizers that train."""
        return ("adamw", "shampoo") if self.optimizer == "both" else (self.optimizer,)


TRAINED = "all training is finished"  # why the test split is looked at
# Quick to compile and to train; the smoke presets of this family of experiments.
SMOKE = {
    "epochs": 2,
    "evaluate_every": 1,
    "buckets": 1,
    "model": NxtPostConfig.default(max_len=16, d_model=32, d_ff=32, num_layers=1),
    "objective": Objective(num_negatives=64),
}


def make_optimizer(
    name: Word, options: NxtPostOptions, *, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Build an optimizer: one epoch of linear warm-up, then the schedule of the options.

    A constant rate leaves the number of epochs open, which validation decides.
    """
    return warmed_up(
        name,
        peak=options.adamw_rate if name == "adamw" else options.shampoo_rate,
        epochs=options.epochs,
        steps_per_epoch=steps_per_epoch,
        schedule=options.schedule,
        weight_decay=options.weight_decay,
    )


def train_seeds(
    run: Run,
    problem: Problem,
    *,
    config: NxtPostConfig,
    options: NxtPostOptions,
    stage: str,
    **how: Any,
) -> list[tuple[NxtPost, TrainResult]]:
    """Train one model from every seed of the options; the rest is `train_one`'s."""
    return [
        train_one(
            run,
            problem,
            config=config,
            options=options,
            stage=f"{stage}-{seed}",
            seed=seed,
            **how,
        )
        for seed in options.all_seeds
    ]


def train_one(
    run: Run,
    problem: Problem,
    *,
    config: NxtPostConfig,
    options: NxtPostOptions,
    optimizer: Word,
    stage: str,
    seed: int,
    mesh: Mesh,
    evaluate: Evaluate | None = None,
) -> tuple[NxtPost, TrainResult]:
    """Train one model as the options say; see `train_nxtpost`."""
    rows = {"batch_size": options.batch_size, "buckets": options.buckets}
    steps = nxtpost_jax.steps_per_epoch(problem.split.train, max_len=config.max_len, **rows)
    return train_nxtpost(
        run,
        problem,
        config=config,
        stage=stage,
        tx=make_optimizer(optimizer, options, steps_per_epoch=steps),
        objective=options.objective,
        epochs=options.epochs,
        patience=options.patience,
        average=options.average,
        **rows,
        evaluate_every=options.evaluate_every,
        seed=seed,
        mesh=mesh,
        evaluate=evaluate,
    )
