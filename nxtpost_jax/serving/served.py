"""What a recommender serves by: parameters and catalogue, replaced as a whole, by one at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from numpy.typing import ArrayLike

from nxtpost_jax.serving.catalogue import Catalogue


@dataclasses.dataclass(frozen=True)
class State:
    """Hold what belongs together at one moment.

    Attributes:
      params: the model's parameters, None before the first fit.
      catalogue: items, with vectors under these parameters.
      num_fits: tells the parameters of one fit from those of another.
    """

    params: Any
    catalogue: Catalogue
    num_fits: int = 0


class Served:
    """Hold the state of now; readers take `now` once and need no lock.

    Attributes:
      now: the state.
    """

    def __init__(self, num_items: int, width: int):
        self._blank = Catalogue.of(jnp.zeros((num_items, width)), capacity=num_items)
        self._num_items = num_items
        self.now = State(None, self._blank)
        self._turn = threading.Lock()
        self._fitting = False

    @contextlib.contextmanager
    def writing(self) -> Iterator[State]:
        """Wait until nobody else writes, and give the state; `replace` it within."""
        with self._turn:
            yield self.now

    def replace(self, params: Any, catalogue: Catalogue) -> None:
        """Put another state in place; only within `writing`."""
        num_fits = self.now.num_fits + (params is not self.now.params)
        self.now = State(params, catalogue, num_fits)

    @contextlib.contextmanager
    def fitting(self) -> Iterator[Catalogue]:
        """Let nobody else fit, and give the items of the start less those removed, unencoded.

        Each item is in the slot of its id, and there is no other slot.

        Raises:
          ValueError: there are added items, whose content nobody has, or another fit is under way.
        """
        with self._turn:
            ids = self.now.catalogue.sorted_ids
            if len(ids) and ids[-1] >= self._num_items:
                raise ValueError(
                    f"recommender: expected no added items at fit, found {ids[-1]}; build a new "
                    "one with their content"
                )
            if self._fitting:
                raise ValueError("recommender: expected no fit under way, found one")
            self._fitting = True
        try:
            yield self._blank.without(self.now.catalogue.removed)
        finally:
            self._fitting = False

    def finish_fit(self, params: Any, vectors_NxD: ArrayLike) -> None:
        """Serve by other parameters; what was removed meanwhile stays removed."""
        catalogue = Catalogue.of(vectors_NxD)
        with self._turn:
            self.replace(params, catalogue.without(self.now.catalogue.removed))

    def check_can_grow(self) -> None:
        """Refuse new items while a fit is under way, whose parameters would not know them."""
        if self._fitting:
            raise ValueError(
                "recommender: expected no fit under way, which would not know the new items, "
                "found one"
            )
