"""What a score is raised by for what is known of an item at the moment: a learned sum of curves."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from nxtpost_jax.arrays import Array
from nxtpost_jax.events.trends import KINDS, KNOTS, OCTAVE


class TrendPrior(nn.Module):
    """Add a learned curve of events so far, one of events of late, and one of age.

    A curve has a number per octave and is straight between them, so that items of about as many
    events stay in their order. All begin at 0. They are of the scale of a similarity, to which they
    are added.
    """

    @nn.compact
    def __call__(self, known: Array) -> jax.Array:
        """Give f32[...] for the codes uint8[3, ...] of `events.trends`."""
        total = jnp.zeros(known.shape[1:])
        for name, codes in zip(KINDS, known, strict=True):
            knots = self.param(name, nn.initializers.zeros, (KNOTS,))
            octave, part = codes // OCTAVE, (codes % OCTAVE) / OCTAVE
            low = jnp.take(knots, octave, mode="clip")
            total += low + part * (jnp.take(knots, octave + 1, mode="clip") - low)
        return total
