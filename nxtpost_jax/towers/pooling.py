"""From a user's states to the one vector that serving compares with posts.

Shape suffixes as in `model`: B batch, L positions, D model width.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from nxtpost_jax.arrays import Array
from nxtpost_jax.events.sequences import PAD
from nxtpost_jax.towers.config import NxtPostConfig
from nxtpost_jax.towers.similarity import output


class Pooling(nn.Module):
    """Pool the states of each row, see `NxtPostConfig.pooling`; padding has no weight."""

    config: NxtPostConfig

    @nn.compact
    def __call__(self, states_BxLxD: Array, items_BxL: Array) -> jax.Array:
        if self.config.pooling == "last":
            return last_states(states_BxLxD, items_BxL)
        scores_BxL = jnp.zeros(items_BxL.shape)
        if self.config.pooling == "attention":
            # A query of zeros starts as the mean.
            query_D = self.param("query", nn.initializers.zeros, (self.config.d_model,))
            scores_BxL = states_BxLxD @ query_D
        scores_BxL = jnp.where(read_positions(items_BxL), scores_BxL, -jnp.inf)
        weights_BxL = jax.nn.softmax(scores_BxL, axis=-1)
        pooled_BxD = jnp.einsum("bl,bld->bd", weights_BxL, states_BxLxD)
        return output(pooled_BxD, self.config.similarity)


def last_states(states_BxLxD: Array, items_BxL: Array) -> jax.Array:
    """Take each row's state at its last event: f32[B, D]; at column 0 where there is none."""
    last_B = jnp.maximum(jnp.sum(items_BxL != PAD, axis=1) - 1, 0)
    return jnp.take_along_axis(states_BxLxD, last_B[:, None, None], axis=1)[:, 0]


def read_positions(items_BxL: Array) -> jax.Array:
    """Tell which positions hold something: bool[B, L].

    Those with an event, and the first of a row without any: it stands for the user alone.
    """
    first_L = jnp.arange(items_BxL.shape[1]) == 0
    valid_BxL = items_BxL != PAD
    return valid_BxL | (first_L[None] & ~jnp.any(valid_BxL, axis=1, keepdims=True))
