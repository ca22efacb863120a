"""What a score is raised by for what is known of an item at the moment: a learned sum of tables."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from nxtpost_jax.arrays import Array
from nxtpost_jax.events.trends import SIZES


class TrendPrior(nn.Module):
    """Add a learned number per bucket of events so far, of events of late, and of age.

    All begin at 0. They are of the scale of a similarity, to which they are added.
    """

    @nn.compact
    def __call__(self, known: Array) -> jax.Array:
        """Give f32[...] for the buckets int8[3, ...] of `events.trends`."""
        total = jnp.zeros(known.shape[1:])
        for name, size, buckets in zip(("total", "late", "age"), SIZES, known, strict=True):
            table = self.param(name, nn.initializers.zeros, (size,))
            total += jnp.take(table, buckets, mode="clip")
        return total
