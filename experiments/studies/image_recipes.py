"""How a network is trained on many photographs: the optimizer of each recipe.

Both are modelled on the common 90-epoch recipe for ResNet-50 on ImageNet (Goyal et al. 2017, arXiv
1706.02677: rate .1 per 256 images, five epochs of warm-up, Nesterov momentum .9, decay 1e-4 in the
gradient, not on norms and biases), with a cosine to zero in place of its steps. They are ours, not
those of the Shampoo paper. Shampoo takes SGD's rate, since it takes the length of its steps too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import optax

import shampoo_jax
from shampoo_jax import Momentum, dimension_numbers, grafting

Recipe = Literal["sgd", "shampoo"]
MOMENTUM = 0.9


def kernels(params: Any) -> Any:
    """Mark what decays: all but vectors."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def sgd(rate: optax.Schedule, decay: float) -> optax.GradientTransformation:
    """SGD with Nesterov momentum."""
    decayed = optax.add_decayed_weights(decay, mask=kernels)
    return optax.chain(decayed, optax.sgd(rate, momentum=MOMENTUM, nesterov=True))


def shampoo(rate: optax.Schedule, decay: float) -> optax.GradientTransformation:
    """Shampoo whose steps are as long as SGD's, block by block."""
    return shampoo_jax.shampoo(
        rate,
        b1=0.0,
        momentum=Momentum(MOMENTUM, nesterov=True),
        weight_decay=decay,
        decay_type="l2",
        mask=kernels,
        grafting=grafting.sgd(),
        dimension_numbers=dimension_numbers.flax,
    )


MAKERS: dict[str, Callable[..., optax.GradientTransformation]] = {"sgd": sgd, "shampoo": shampoo}


def make_optimizer(
    recipe: Recipe,
    *,
    rate: float,
    decay: float,
    warmup: int,
    steps: int,
) -> optax.GradientTransformation:
    """Build a recipe's optimizer.

    Args:
      recipe: which.
      rate: at the end of the warm-up.
      decay: of the weights, as a part of the gradient.
      warmup: steps.
      steps: of the whole training.
    """
    warmup = min(warmup, max(1, steps - 1))
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps)
    return MAKERS[recipe](schedule, decay)
