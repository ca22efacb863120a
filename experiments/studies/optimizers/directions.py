"""What of a lead is the direction of the steps, and what their lengths.

A kernel's step of one optimizer is turned to where another one would go, and keeps its length. Both
are at the points that their trials chose. Whatever is no kernel between the first and the last
layer (`muon_dimensions`) steps as the optimizer of the lengths steps.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.harness.figures import Figures, pick
from experiments.harness.names import OPTIMIZERS
from experiments.harness.plots import Draw, draw_points
from experiments.harness.report import Table
from experiments.studies.optimizers.factories import FACTORIES, Factory, muon_dimensions
from experiments.studies.optimizers.spaces import Point
from experiments.studies.optimizers.tables import spread, table_of
from experiments.studies.optimizers.targets import or_chance
from experiments.studies.optimizers.trials import Trainer

LENGTHS = ("muon", "shampoo")  # whose steps are turned
Ends = Mapping[str, Mapping[str, Sequence[float]]]  # per lengths and direction, one per seed


def turned(
    lengths: optax.GradientTransformation, directions: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Step as `lengths`, with kernels' steps turned to where `directions` goes."""

    def init(params: Any) -> Any:
        return lengths.init(params), directions.init(params)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        steps, own = lengths.update(updates, state[0], params)
        towards, other = directions.update(updates, state[1], params)
        return jax.tree.map(_turn, kernels(params), steps, towards), (own, other)

    return optax.GradientTransformation(init, update)


def _turn(is_kernel: bool, step: jax.Array, towards: jax.Array) -> jax.Array:
    if not is_kernel:
        return step
    tiny = jnp.finfo(step.dtype).tiny
    return towards * (jnp.linalg.norm(step) / jnp.maximum(jnp.linalg.norm(towards), tiny))


def kernels(params: Any) -> Any:
    """Return a tree of bools: what Muon orthogonalizes."""

    def is_whole(own: Any) -> bool:
        return own is None or isinstance(own, optax.contrib.MuonDimensionNumbers)

    return jax.tree.map(lambda own: own is not None, muon_dimensions(params), is_leaf=is_whole)


def others(params: Any) -> Any:
    """Return a tree of bools: what Muon leaves to AdamW."""
    return jax.tree.map(lambda is_kernel: not is_kernel, kernels(params))


def factory_of(lengths: str, directions: str, *, point: Point) -> Factory:
    """Return the factory of one optimizer's lengths in another one's directions.

    Args:
      lengths: of `LENGTHS`; the factory's arguments are its point. Weight decay is not turned.
      directions: name of any optimizer.
      point: of the directions' optimizer. Its rate and decay change no direction.
    """

    def factory(rate: Any, weight_decay: Any, b1: Any, b2: Any, other_rate: Any) -> Any:
        own = FACTORIES[lengths](rate, 0.0, b1, b2, other_rate)
        towards = FACTORIES[directions](1.0, 0.0, point.b1, point.b2, 1.0)
        of_others = other_rate if lengths == "muon" else rate
        return optax.chain(
            turned(own, towards),
            optax.masked(optax.add_decayed_weights(-rate * weight_decay), kernels),
            optax.masked(optax.add_decayed_weights(-of_others * weight_decay), others),
        )

    return factory


def turn_all(trainer: Trainer, points: Mapping[str, Point], *, seeds: Sequence[int]) -> Ends:
    """Train every direction at each of `LENGTHS`, all at the points that their trials chose."""

    def ends(lengths: str, directions: str) -> list[float]:
        factory = factory_of(lengths, directions, point=points[directions])
        how = {"factory": factory, "point": points[lengths]}
        stages = {seed: f"{lengths}-lengths-{directions}-{seed}" for seed in seeds}
        runs = [trainer.train(stage, seed=seed, **how) for seed, stage in stages.items()]
        return [or_chance(run.end("loss"), trainer.task.chance) for run in runs]

    return {lengths: {name: ends(lengths, name) for name in points} for lengths in LENGTHS}


def table_of_directions(ends: Ends, *, seeds: int) -> Table:
    """Make a table of a row per direction, a column per lengths."""
    return table_of(
        list(ends[LENGTHS[0]]),
        "Directions and lengths",
        [f"at the lengths of {OPTIMIZERS[name]}" for name in LENGTHS],
        row=lambda name: [spread(ends[lengths][name]) for lengths in LENGTHS],
        note="Validation loss at the end, mean and standard deviation over "
        f"{seeds} seed(s). Rows are directions of the kernels between the first and the last "
        "layer. All else, rates and decay are those of the column's optimizer at the point that "
        "its trials chose; a direction has b1 and b2 of its own chosen point.",
    )


def figures_of_directions(ends: Ends) -> dict[str, float | None]:
    """Flatten: directions/DIRECTION/LENGTHS/N/validation_loss, N counting the seeds."""
    return {
        f"directions/{name}/{lengths}/{n}/validation_loss": loss
        for lengths, rows in ends.items()
        for name, losses in rows.items()
        for n, loss in enumerate(losses)
    }


def direction_panels(figures: Figures) -> list[Draw]:
    """Draw the losses at the end, a panel per lengths."""
    panels: dict[str, dict[str, list[float]]] = {lengths: {} for lengths in LENGTHS}
    pattern = r"directions/([^/]+)/([^/]+)/\d+/validation_loss"
    for (name, lengths), losses in pick(figures, pattern).items():
        panels[lengths][OPTIMIZERS[name]] = losses
    draw = functools.partial(draw_points, label="validation loss at the end")
    return [
        functools.partial(draw, rows=rows, title=f"directions at {OPTIMIZERS[lengths]}'s lengths")
        for lengths, rows in panels.items()
    ]
