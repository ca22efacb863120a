"""The levels' models as one: linear ensembles of their logits, and the losses of all levels.

Levels are numbered from the coarsest; the last one is the items. A pair's output at a level is
the MoNN's logit for the user and the representative of the node that holds the item.

Source: arXiv 2408.06653v3, joint optimisation of the index and MoNN.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hsnn_jax.monn.losses import binary_cross_entropy


def init_ensemble(num_levels: int) -> dict:
    """Return the weights of the ensembles: level n starts as the mean of the levels up to n.

    The weights are free, not kept positive: a level may correct what a coarser one overrates.

    Returns:
      {"weights": float [N, N], of which the lower triangle counts; "bias": float [N]}.

    Raises:
      ValueError: there is no level.
    """
    if num_levels < 1:
        raise ValueError(f"num_levels: expected a number >= 1, found {num_levels}")
    weights = jnp.tril(jnp.ones((num_levels, num_levels)))
    weights /= jnp.sum(weights, axis=1, keepdims=True)
    return {"weights": weights, "bias": jnp.zeros(num_levels)}


def ensemble_logits(params: Any, outputs: jax.Array) -> jax.Array:
    """Compute every level's logit: sum_{l <= n} w_nl output_l + b_n.

    Args:
      params: from `init_ensemble`.
      outputs: float [..., N], the MoNNs' logits, coarsest first.

    Returns:
      float [..., N].

    Raises:
      ValueError: there are not N outputs.
    """
    levels = params["bias"].shape[0]
    if outputs.shape[-1] != levels:
        raise ValueError(
            f"outputs: expected {levels} levels last, found shape {list(outputs.shape)}"
        )
    logits = outputs @ jnp.tril(params["weights"]).T
    return logits + params["bias"].reshape((1,) * (outputs.ndim - 1) + (-1,))


def level_logit(params: Any, outputs: jax.Array) -> jax.Array:
    """Compute the logit of level n = outputs.shape[-1] alone, as the search at that level does.

    Args:
      params: from `init_ensemble`, of at least n levels.
      outputs: float [..., n], of levels 1 to n.

    Returns:
      float [...].
    """
    last = outputs.shape[-1] - 1
    return outputs @ params["weights"][last, : last + 1] + params["bias"][last]


def level_losses(
    logits: jax.Array,
    labels: jax.Array,
    *,
    weights: ArrayLike | Sequence[float] | None = None,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Compute one supervised loss a level, all with the pair's own label.

    Args:
      logits: float [..., N] from `ensemble_logits`. Its biases calibrate each level: where the
        loss is least in a bias, that level's mean prediction is the mean label.
      labels: [...] in [0, 1].
      weights: optional float [N]; 1 each by default.
      mask: optional bool [...], False where a label is missing.

    Returns:
      (weighted sum float [], mean cross entropy of each level float [N]).
    """
    mask = jnp.ones(labels.shape, bool) if mask is None else mask
    losses = binary_cross_entropy(logits, jnp.where(mask, labels, 0)[..., None])
    axes = tuple(range(labels.ndim))
    total = jnp.sum(jnp.where(mask[..., None], losses, 0), axis=axes)
    per_level = total / jnp.maximum(jnp.sum(mask), 1)
    weights = jnp.ones_like(per_level) if weights is None else jnp.asarray(weights)
    return weights @ per_level, per_level


def interaction_mse(level_vectors: jax.Array, item_vectors: jax.Array) -> jax.Array:
    """Compute the auxiliary loss of a level's interaction tower: the MSE to the items' tower.

    The items' tower is the target and gets no gradient.

    Args:
      level_vectors: float [..., n, d], the level's tower on the user and the item's node.
      item_vectors: float [..., n, d], the item level's tower on the user and the item.

    Raises:
      ValueError: the shapes differ: levels need interaction towers of one output.
    """
    if level_vectors.shape != item_vectors.shape:
        raise ValueError(
            f"level_vectors: expected the shape of item_vectors, {list(item_vectors.shape)}, "
            f"found {list(level_vectors.shape)}"
        )
    return jnp.mean((level_vectors - jax.lax.stop_gradient(item_vectors)) ** 2)
