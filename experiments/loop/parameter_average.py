"""An average of the parameters over steps, by the weight that each step's come in with."""

from __future__ import annotations

from collections.abc import Callable

import jax

# Maps the number of a step, int32[] from 1 on, to the weight of its parameters, in (0, 1]; the
# first one's is 1, so that nothing of the start is left.
Weight = Callable[[jax.Array], jax.Array]


def exponential(decay: float) -> Weight:
    """Return the weight of an exponential average, its first steps divided by what they sum to."""
    return lambda step: (1 - decay) / (1 - decay**step)
