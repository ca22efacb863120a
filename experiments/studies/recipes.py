"""What the whole path chooses by the length of its users' histories."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import optax

import shampoo_jax
from experiments.tasks.next_item import Problem
from shampoo_jax import Blocks

LONG_USERS = 20  # mean training events of a user from which "long" applies


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What depends on the data, by its users' length; `EndToEnd` documents the fields."""

    epochs: int
    evaluate_every: int
    max_len: int
    batch_size: int
    dropout: float
    adamw_rate: float
    shampoo_rate: float
    monn_steps: int


# Learning rates: the best on validation of a grid for each optimizer; the figures are in
# docs/results/notes/end_to_end.md.
RECIPES = {
    "short": Recipe(
        epochs=10,
        evaluate_every=1,
        max_len=16,
        batch_size=128,
        dropout=0.2,
        adamw_rate=8e-3,
        shampoo_rate=8e-3,
        monn_steps=400,
    ),
    "long": Recipe(
        epochs=16,
        evaluate_every=2,
        max_len=200,
        batch_size=32,
        dropout=0.2,
        adamw_rate=1.2e-2,
        shampoo_rate=1.6e-2,
        monn_steps=800,
    ),
}


def choose_recipe(options: Any, problem: Problem) -> Recipe:
    """Take the recipe for the data's users; fields of the options that are not None come first."""
    mean = float(np.mean(problem.split.train.lengths))
    recipe = RECIPES["long" if mean >= LONG_USERS else "short"]
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe)}
    return dataclasses.replace(recipe, **{k: v for k, v in given.items() if v is not None})


def optimizers(recipe: Recipe, *, steps: int) -> dict[str, optax.GradientTransformation]:
    """Build both optimizers with the same schedule, averages and decay."""

    def schedule(peak: float) -> optax.Schedule:
        warmup = max(1, min(100, steps // 10))
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, 2), 0.05 * peak)

    return {
        "adamw": optax.adamw(schedule(recipe.adamw_rate), b1=0.9, b2=0.98, weight_decay=0.01),
        "shampoo": shampoo_jax.shampoo(
            schedule(recipe.shampoo_rate), weight_decay=0.01, blocks=Blocks(block_size=256)
        ),
    }
