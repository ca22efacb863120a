"""A rival of HSNN: a way to search, in a few settings of which validation chooses one.

All rivals of a seed answer the same requests, whose users are encoded by the models' names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.harness.timing import cpu_seconds_of
from experiments.retrieval.searchers import Requests
from hsnn_jax.cost_curves import Searcher, recall_by_user


class Asked(NamedTuple):
    """Requests of one size, each with what its user takes next.

    Attributes:
      requests: users are {model: its encoded users [B, ...]}; `met` are liked items, the latest
        first.
      wanted: int32 [b], of the first b <= B rows; the others repeat the last of these.
    """

    requests: Requests
    wanted: np.ndarray


class Answered(NamedTuple):
    """What a searcher found, and what it cost.

    Attributes:
      hits: float64 [U], 1 where what the user took next is among the k found.
      items_scored: mean a user.
      flops: mean a user, user towers, nodes and ensembles counted; NaN where nothing is multiplied.
      cpu_ms: of the process a query in one warm call, user towers left out.
    """

    hits: np.ndarray
    items_scored: float
    flops: float
    cpu_ms: float


@dataclasses.dataclass(frozen=True, eq=False)
class Rival:
    """A way to search.

    Attributes:
      name: in tables.
      settings: what validation chooses from, by label: a searcher to be built, and its budget.
      reads: the models whose user towers a query runs.
      model: the one whose scores order what is found, by which its share of a gain is taken; ""
        where there is none.
      reason: why there is no such rival here; "" where there is.
    """

    name: str
    settings: Mapping[str, tuple[Callable[[], Searcher], int]] = dataclasses.field(
        default_factory=dict
    )
    reads: tuple[str, ...] = ()
    model: str = ""
    reason: str = ""

    def built(self, label: str) -> tuple[Searcher, int]:
        """Return a setting's searcher, built, and its budget."""
        make, budget = self.settings[label]
        searcher = make()
        searcher.build()
        return searcher, budget


def answer(searcher: Searcher, asked: Sequence[Asked], *, k: int, budget: int) -> Answered:
    """Search for all who ask, in parts; the first part twice, timed when it is warm."""
    first = asked[0].requests

    def call() -> Any:
        return searcher.search(first, k, budget=budget).ids

    jax.block_until_ready(call())
    seconds = cpu_seconds_of(call)
    found = [searcher.search(part.requests, k, budget=budget) for part in asked]
    hits = [
        recall_by_user(np.asarray(one.ids)[: len(part.wanted)], part.wanted[:, None])
        for one, part in zip(found, asked)
    ]
    return Answered(
        hits=np.concatenate(hits),
        items_scored=float(np.mean([one.items_scored for one in found])),
        flops=float(np.mean([one.flops for one in found])),
        cpu_ms=1000 * seconds / len(first.exclude),
    )


def choose(rival: Rival, asked: Sequence[Asked], *, k: int, trials: int) -> str:
    """Return the label of the setting that finds most, of the first `trials`; the first of ties."""
    labels = list(rival.settings)[:trials]
    if len(labels) == 1:
        return labels[0]

    def found(label: str) -> float:
        searcher, budget = rival.built(label)
        return float(answer(searcher, asked, k=k, budget=budget).hits.mean())

    return max(labels, key=found)


def as_arrays(answered: Answered) -> dict[str, Any]:
    """Return the figures as a run remembers them."""
    return answered._asdict()


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Answered:
    """Read what `as_arrays` gave."""
    own = {name: arrays[name] for name in Answered._fields}
    return Answered(own.pop("hits"), **{name: float(value) for name, value in own.items()})
