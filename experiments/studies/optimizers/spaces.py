"""Where each optimizer's hyperparameters are looked for: the same points, mapped to its own ranges.

A trial is a point of the unit cube. All optimizers get the same points; each maps them to ranges
around what its authors published:

| optimizer | rate | 1 - b1 | decay | published |
| --- | --- | --- | --- | --- |
| sgd | .1 | .1 | 1e-4, in the gradient | He et al. 2016, arXiv 1512.03385, section 3.4 |
| adamw | 1e-3 | .1 | .03 | Kingma and Ba 2015; Loshchilov and Hutter 2019; torch's AdamW |
| muon | .02 | .05 | .03 | Jordan et al. 2024, kellerjordan.github.io/posts/muon, its software |
| shampoo | .01 | .1 | .03 | the software of arXiv 2309.06497 (`DistributedShampoo`) |
| soap | 3e-3 | .05 | .03 | arXiv 2409.11321 and its software |
| kl_shampoo | 3e-3 | .1 | .03 | none of its own: SOAP's, beside which arXiv 2509.03378 tunes it |

The middle of a range is the published value; every range of rates is three decades wide, of decays
two, of 1 - b1 a factor of ten, on a logarithmic scale. Decoupled decays have one range,
.003 to .3, around the .01 of torch's AdamW and the .1 of language models. 1 - b2 is .001 to .1 for
all, the .999 of Adam and the .95 of SOAP and of language models in it: the decay of AdamW's second
moment, of Muon's AdamW, and of the factors, second moments and grafting of the others. SGD has no
b2. Muon steps the matrices between first and last layer; the rest is left to an AdamW with a rate
of its own, the fifth coordinate, in AdamW's range.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import qmc

OptimizerName = Literal["sgd", "adamw", "muon", "shampoo", "soap", "kl_shampoo"]
RATE_WIDTH = 1e3  # largest over smallest of a range
DECAY_WIDTH = 1e2
B1_WIDTH = 10.0
B2_RANGE = (1e-3, 1e-1)


class Point(NamedTuple):
    """The hyperparameters of a trial."""

    rate: float  # peak learning rate
    weight_decay: float
    b1: float
    b2: float
    other_rate: float  # of Muon's AdamW


@dataclasses.dataclass(frozen=True)
class Space:
    """The middle of an optimizer's ranges; see the table above."""

    rate: float
    b1: float = 0.1  # of 1 - b1
    weight_decay: float = 0.03


SPACES: dict[str, Space] = {
    "sgd": Space(0.1, weight_decay=1e-4),
    "adamw": Space(1e-3),
    "muon": Space(0.02, b1=0.05),
    "shampoo": Space(0.01),
    "soap": Space(3e-3, b1=0.05),
    "kl_shampoo": Space(3e-3),
}


def cube_points(trials: int) -> np.ndarray:
    """Return the trials as points of the unit cube: float64 [trials, 5].

    A Latin hypercube of low discrepancy: in each coordinate every trial has an equal part of the
    range to itself, and stands in its middle. The same ones each time.
    """
    sampler = qmc.LatinHypercube(
        len(Point._fields), scramble=False, optimization="random-cd", rng=np.random.default_rng(0)
    )
    return sampler.random(trials)


def point_of(name: str, coordinates: np.ndarray) -> Point:
    """Map a point of the unit cube to an optimizer's ranges.

    A first coordinate outside of [0, 1] is a rate beyond the range.
    """
    space = SPACES[name]
    rate, decay, b1, b2, other = coordinates.tolist()
    low, high = B2_RANGE
    return Point(
        rate=_around(space.rate, RATE_WIDTH, rate),
        weight_decay=_around(space.weight_decay, DECAY_WIDTH, decay),
        b1=1 - _around(space.b1, B1_WIDTH, b1),
        b2=1 - _around(math.sqrt(low * high), high / low, b2),
        other_rate=_around(SPACES["adamw"].rate, RATE_WIDTH, other),
    )


def _around(middle: float, width: float, coordinate: float) -> float:
    return middle * width ** (coordinate - 0.5)


def is_on_edge(coordinates: np.ndarray, best: int) -> bool:
    """Say whether a trial has the largest or smallest rate of all those tried, float [n, 5]."""
    rates = coordinates[:, 0]
    return rates[best] in (rates.min(), rates.max())


def beyond(coordinates: np.ndarray, best: int, *, count: int) -> np.ndarray:
    """Return `count` trials more, float64 [count, 5], beyond the end of the range near the best.

    Their rates go on from the outermost tried in steps as wide as those of the first trials; all
    else is the best trial's.

    Args:
      coordinates: of the trials so far, float64 [n, 5].
      best: index of the best of them.
      count: how many more.
    """
    rates = np.sort(coordinates[:, 0])
    up = coordinates[best, 0] >= np.median(rates)
    width = rates[1] - rates[0]
    steps = np.arange(1, count + 1) * width
    more = np.repeat(coordinates[best : best + 1], count, axis=0)
    more[:, 0] = rates[-1] + steps if up else rates[0] - steps
    return more
