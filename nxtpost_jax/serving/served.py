"""What a recommender serves by: parameters and catalogue, replaced as a whole, by one at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.events import content as contents
from nxtpost_jax.events.content import Content
from nxtpost_jax.events.descriptions import Descriptions
from nxtpost_jax.events.ids import Ids, Numbered, OwnIds
from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.events.splits import Queries
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.serving.mirror import Index, Mirror
from nxtpost_jax.serving.trending import Trending
from nxtpost_jax.towers.model import NxtPost


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """Hold what a fit begins with.

    Attributes:
      model: the towers.
      num_items: items of the start, numbered from 0.
      content: of these, on the device, or None.
      names: what the caller calls items.
      actions: what the caller calls actions; None where these are numbers.
      columns: {role: name} of a table's columns that the caller named.
      descriptions: what reads further items' content, where items have the caller's ids and some.
      stale: int32[s], items of earlier tables that this start is without; they count as removed.
    """

    model: NxtPost
    num_items: int
    content: Content = None
    names: Ids = dataclasses.field(default_factory=Numbered)
    actions: OwnIds | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    descriptions: Descriptions | None = None
    stale: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def own_ids(self) -> bool:
        """Tell whether items have the caller's own ids, not numbers from 0."""
        return isinstance(self.names, OwnIds)

    @property
    def content_in_words(self) -> str:
        """Say of what kind content is, or of what shape where that is all there is to say."""
        if self.descriptions is None or self.descriptions.alone:
            return contents.describe(self.content)
        return repr(self.descriptions)


@dataclasses.dataclass(frozen=True, eq=False)
class Held:
    """Hold what a fit left out to report by.

    Attributes:
      train: the events that it was trained on.
      test: queries that neither training nor the choice of the epoch has seen.
      seen_filter: whether a user's earlier items are left out of the candidates.
    """

    train: Sequences
    test: Queries
    seen_filter: bool


@dataclasses.dataclass(frozen=True)
class State:
    """Hold what belongs together at one moment.

    Attributes:
      start: what the last fit began with, or the next one will; None before it is known.
      params: the model's parameters, None before the first fit.
      catalogue: items, with vectors under these parameters.
      num_fits: tells the parameters of one fit from those of another.
      opt_state: the optimizer's state beside the parameters, for a fit that goes on; or None.
      added: {id: one item's content on the host} of items that `add` brought.
      held: what the last fit left out to report by, or None.
      trending: counts events, where the model reads trends; shared by all states since a fit.
    """

    start: Start | None
    params: Any
    catalogue: Catalogue
    num_fits: int = 0
    opt_state: Any = None
    added: Mapping[int, Any] = dataclasses.field(default_factory=dict)
    held: Held | None = None
    trending: Trending | None = None

    @property
    def begun(self) -> Start:
        """Give the start, which there is wherever there are parameters."""
        assert self.start is not None
        return self.start

    def described(self) -> str:
        """Say in words what there is."""
        if self.start is None:
            return "unfitted"
        known = [] if self.start.content is None else [self.start.content_in_words]
        known += ["ids"] if self.start.model.config.id_embedding else []
        state = "unfitted" if self.params is None else "fitted"
        return f"{len(self.catalogue):,} items by {' and '.join(known)}, {state}"


class Served:
    """Hold the state of now; readers take `now` once and need no lock.

    Attributes:
      now: the state.
      mirror: keeps an index equal to the catalogue of now; or None.
    """

    def __init__(self, start: Start | None, index: Index | None = None):
        trending = None if start is None else Trending.begun(start.model)
        self.now = State(start, None, _blank(start), trending=trending)
        self.mirror = None if index is None else Mirror(index)
        self._turn = threading.Lock()
        self._fitting = False

    @classmethod
    def of(cls, state: State, index: Index | None) -> Served:
        """Serve by a state that was kept."""
        served = cls(state.start, index)
        served.check_index(state.begun)
        served.now = dataclasses.replace(state, num_fits=1)
        if served.mirror is not None:
            served.mirror.build(state.catalogue)
        return served

    @property
    def start(self) -> Start:
        """Give what the last fit began with, or the next one will.

        Raises:
          ValueError: it is not known yet.
        """
        if self.now.start is None:
            raise ValueError("recommender: expected a fitted one or num_items, found neither")
        return self.now.start

    @property
    def fitted(self) -> State:
        """Give the state of now, which has parameters.

        Raises:
          ValueError: it has none.
        """
        now = self.now
        if now.params is None:
            raise ValueError("recommender: expected a fitted one (by fit or load), found none")
        return now

    @contextlib.contextmanager
    def writing(self) -> Iterator[State]:
        """Wait until nobody else writes, and give the state; `replace` it within."""
        with self._turn:
            yield self.now

    def add(self, vectors: np.ndarray, codes: np.ndarray, *, added: Mapping[int, Any]) -> None:
        """Let items in; only within `writing`."""
        catalogue = self.now.catalogue.add(vectors, codes)
        if self.mirror is not None:
            self.mirror.add(vectors, codes, into=catalogue)
        self.now = dataclasses.replace(self.now, catalogue=catalogue, added=added)

    def remove(self, codes: np.ndarray, *, added: Mapping[int, Any]) -> None:
        """Take items out; only within `writing`."""
        catalogue = self.now.catalogue.remove(codes)
        if self.mirror is not None and self.now.params is not None:
            self.mirror.remove(codes, left=catalogue)
        self.now = dataclasses.replace(self.now, catalogue=catalogue, added=added)

    def replace(self, params: Any, catalogue: Catalogue) -> None:
        """Put another state in place; only within `writing`."""
        changes: dict[str, Any] = {}
        if params is not self.now.params:
            changes = {"num_fits": self.now.num_fits + 1, "opt_state": None, "held": None}
        self._serve(dataclasses.replace(self.now, params=params, catalogue=catalogue, **changes))

    @contextlib.contextmanager
    def fitting(self) -> Iterator[None]:
        """Let nobody else fit, nor new items enter, from before the events are read.

        Raises:
          ValueError: another fit is under way.
        """
        with self._turn:
            if self._fitting:
                raise ValueError("recommender: expected no fit under way, found one")
            self._fitting = True
        before = self.now.trending
        noting = contextlib.nullcontext() if before is None else before.trends.noting()
        try:
            with noting:
                yield
        finally:
            self._fitting = False

    def blank(self, start: Start) -> State:
        """Give the items of a start less those removed, unencoded; only within `fitting`.

        Each item is in the slot of its id, and there is no other slot.

        Raises:
          ValueError: there are added items that the start does not know.
        """
        ids = self.now.catalogue.sorted_ids
        if len(ids) and ids[-1] >= start.num_items:
            found = self.now.catalogue.names.take(ids[-1:])[0]
            raise ValueError(
                f"recommender: expected no added items at fit, found {found}; more=True goes on "
                "with them, a new recommender with their content begins anew"
            )
        blank = _blank(start).without(self._removed(start))
        return State(start, None, blank, trending=self.now.trending)

    def finish_fit(
        self,
        start: Start,
        params: Any,
        vectors_NxD: ArrayLike,
        *,
        opt_state: Any = None,
        held: Held | None = None,
        trending: Trending | None = None,
    ) -> None:
        """Serve by other parameters; what was removed meanwhile stays removed.

        Without `trending` the events so far go on to count; else those that came since the fit
        began, and late ones of requests that were under way.
        """
        catalogue = Catalogue.of(vectors_NxD, names=start.names)
        with self._turn:
            present = catalogue.without(self._removed(start))
            num_fits = self.now.num_fits + 1
            before = self.now.trending
            if before is not None and trending is not None:
                before.trends.hand_over(trending.trends)
            trending = before if trending is None else trending
            kept = {"opt_state": opt_state, "held": held, "trending": trending}
            self._serve(State(start, params, present, num_fits, **kept))

    def removed_by_caller(self) -> np.ndarray:
        """List the items that the caller took out, not those of earlier tables: int32[r]."""
        before = np.zeros(0, np.int32) if self.now.start is None else self.now.start.stale
        return np.setdiff1d(self.now.catalogue.removed, before)

    def check_index(self, start: Start) -> None:
        """Refuse an index beside trends, which change all scores with each step."""
        if start.model.config.trends and self.mirror is not None:
            raise ValueError("index: expected None beside a model with trends, found one")

    def check_can_grow(self) -> None:
        """Refuse new items while a fit is under way, whose parameters would not know them."""
        if self._fitting:
            raise ValueError(
                "recommender: expected no fit under way, which would not know the new items, "
                "found one"
            )

    def _serve(self, state: State) -> None:
        """Serve a state; if its index fails, without it."""
        self.now = state
        if self.mirror is not None:
            self.mirror.build(state.catalogue)

    def _removed(self, start: Start) -> np.ndarray:
        """List what the caller removed, and what a start is without: int32[r]."""
        return np.union1d(self.removed_by_caller(), start.stale).astype(np.int32)


def _blank(start: Start | None) -> Catalogue:
    if start is None:
        return Catalogue.of(jnp.zeros((0, 1)), capacity=1, recent=0)
    vectors = jnp.zeros((start.num_items, start.model.config.d_model))
    return Catalogue.of(vectors, capacity=start.num_items, recent=0, names=start.names)
