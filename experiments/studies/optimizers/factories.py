"""Each optimizer from the point of a trial, with one clipping and one schedule for all.

The hyperparameters are numbers of the state (`optax.inject_hyperparams`), so that all trials of an
optimizer are one compiled program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

import shampoo_jax
from experiments.studies.optimizers.spaces import Point
from shampoo_jax import dimension_numbers

WARMUP = 0.1  # share of the steps
CLIP = 1.0  # norm of the whole gradient
FIRST_AND_LAST = {"stem", "head"}  # modules whose kernels Muon leaves to AdamW

# The fields of Point, in their order and by these names -> the optimizer.
Factory = Callable[[Any, Any, Any, Any, Any], optax.GradientTransformation]


def sgd(rate: Any, weight_decay: Any, b1: Any, b2: Any, other_rate: Any) -> Any:
    """SGD with Nesterov momentum, the decay in the gradient."""
    del b2, other_rate
    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(decay, optax.sgd(rate, momentum=b1, nesterov=True))


def adamw(rate: Any, weight_decay: Any, b1: Any, b2: Any, other_rate: Any) -> Any:
    """AdamW."""
    del other_rate
    return optax.adamw(rate, b1=b1, b2=b2, weight_decay=weight_decay)


def muon(rate: Any, weight_decay: Any, b1: Any, b2: Any, other_rate: Any) -> Any:
    """Muon on the kernels between first and last layer, AdamW on the rest."""
    return optax.contrib.muon(
        rate,
        beta=b1,
        weight_decay=weight_decay,
        adam_learning_rate=other_rate,
        adam_b2=b2,
        adam_weight_decay=weight_decay,
        muon_weight_dimension_numbers=muon_dimensions,
    )


def of_shampoo_jax(make: Callable[..., optax.GradientTransformation], **how: Any) -> Factory:
    """Return the factory of an optimizer of shampoo_jax; `how` are options of its."""
    how = {"dimension_numbers": dimension_numbers.flax} | how

    def factory(rate: Any, weight_decay: Any, b1: Any, b2: Any, other_rate: Any) -> Any:
        del other_rate
        return make(rate, b1=b1, b2=b2, weight_decay=weight_decay, **how)

    return factory


FACTORIES: dict[str, Factory] = {
    "sgd": sgd,
    "adamw": adamw,
    "muon": muon,
    "shampoo": of_shampoo_jax(shampoo_jax.shampoo),
    "soap": of_shampoo_jax(shampoo_jax.soap),
    "kl_shampoo": of_shampoo_jax(shampoo_jax.kl_shampoo),
}


def make_optimizer(factory: Factory, point: Point, *, steps: int) -> optax.GradientTransformation:
    """Clip, step, and scale by linear warm-up and a cosine to zero.

    The schedule multiplies the update, decay included, as it would multiply the rate: each factory
    multiplies by its rate last.
    """
    warmup = min(max(1, round(WARMUP * steps)), max(1, steps - 1))
    shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, steps)
    return optax.chain(
        optax.clip_by_global_norm(CLIP),
        optax.inject_hyperparams(factory)(**point._asdict()),
        optax.scale_by_schedule(shape),
    )


def muon_dimensions(params: Any) -> Any:
    """Return what Muon orthogonalizes, as matrices of (input axes, output axes)."""

    def of(path: tuple, leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        names = tuple(key.key for key in path)
        if names[-1] != "kernel" or FIRST_AND_LAST & set(names):
            return None
        roles = dimension_numbers.flax(names, leaf)
        sides = roles.sides if roles and roles.sides else ((0,), (1,))
        order = len(leaf.shape)
        one, other = (tuple(axis % order for axis in side) for side in sides)
        inputs, outputs = (one, other) if order - 1 in other else (other, one)
        return optax.contrib.MuonDimensionNumbers(inputs, outputs)

    return jax.tree_util.tree_map_with_path(of, params)
