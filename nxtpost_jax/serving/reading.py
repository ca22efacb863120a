"""What a request reads, as of one moment: from histories to rows of catalogue slots."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.arrays import Array
from nxtpost_jax.events.checks import check_times, checked_mask
from nxtpost_jax.events.filters import keep_events
from nxtpost_jax.events.sequences import Sequences, pad_histories
from nxtpost_jax.serving import histories as given_histories
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.serving.histories import Given, Histories, Unknown
from nxtpost_jax.serving.mirror import Mirror
from nxtpost_jax.serving.programs import chunks, columns_of
from nxtpost_jax.serving.served import Start, State
from nxtpost_jax.towers.model import NxtPost

EventFilter = Callable[[Sequences], np.ndarray]
Backfill = Callable[[Sequences], Sequences]


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
    """Hold parameters and catalogue of one moment, and read histories by them.

    A request takes one reader at its start and looks at nothing else, so it sees no change that
    is made while it runs.

    Attributes:
      state: the towers, parameters and catalogue.
      event_filter, backfill: as given to the recommender.
      mirror: what may be asked for the catalogue's items in place of a search; or None.
    """

    state: State
    event_filter: EventFilter | None
    backfill: Backfill | None
    mirror: Mirror | None = None

    @property
    def start(self) -> Start:
        """Give the towers, and what the caller calls items and actions."""
        return self.state.begun

    @property
    def model(self) -> NxtPost:
        """Give the towers."""
        return self.start.model

    @property
    def params(self) -> Any:
        """Give the parameters; None before `fit`."""
        return self.state.params

    @property
    def catalogue(self) -> Catalogue:
        """Give the items, with vectors under these parameters."""
        return self.state.catalogue

    @property
    def version(self) -> tuple[int, int]:
        """Tell what was computed from parameters and vectors from what other ones give."""
        return self.state.num_fits, self.catalogue.revision

    @property
    def columns(self) -> list[str]:
        """List what the model reads of histories beside their items."""
        config, tables = self.model.config, self.params["user_tower"]
        is_read = {
            "times": "gaps" in tables or config.reads_time_between,
            "actions": "actions" in tables or config.action_weights is not None,
            "surfaces": "surfaces" in tables,
            "static": bool(config.static_sizes),
        }
        return [name for name, read in is_read.items() if read]

    def raised(self) -> Array | None:
        """Say what scores are raised by now, by slot; None where the model reads no trends."""
        trending = self.state.trending
        return None if trending is None else trending.now(self.params, self.catalogue)

    def at(self, **changes: Any) -> Reader:
        """Give a reader of another state: `params`, `catalogue` or `trending`."""
        return dataclasses.replace(self, state=dataclasses.replace(self.state, **changes))

    def read(self, name: str, histories: Histories, *, unknown: Unknown = "refuse") -> Given:
        """Read and check what a caller gives, see `histories.read`.

        Raises:
          ValueError: as in `checked` and `histories.read`.
        """
        given = given_histories.read(
            name, histories, start=self.start, catalogue=self.catalogue, unknown=unknown
        )
        return given._replace(sequences=self.checked(name, given.sequences))

    def checked(self, name: str, histories: Sequences) -> Sequences:
        """Refuse histories that the model cannot read, whatever will be left out of them.

        Raises:
          ValueError: there is none, an item is neither in the catalogue nor removed from it,
            times are out of order, or a column that the model was trained with is missing.
        """
        if not len(histories):
            raise ValueError(f"{name}: expected at least one, found none")
        self.check_known(name, histories.items)
        check_times(name, histories)
        for column in self.columns:
            if getattr(histories, column) is None:
                raise ValueError(
                    f"{name}: expected Sequences or a table with {column}, which this model was "
                    "trained with, found none"
                )
        return histories

    def check_known(self, name: str, items: ArrayLike) -> None:
        """Refuse items that are neither in the catalogue nor removed from it."""
        items = np.unique(items)
        self.catalogue.slots(name, items[~self.catalogue.was_removed(items)])

    def filtered(self, sequences: Sequences) -> Sequences:
        """Leave out what the event filter refuses, and the events of removed items."""
        if self.event_filter is not None:
            allowed = self.event_filter(sequences)
            allowed = checked_mask("event_filter", allowed, len(sequences.items))
            sequences = keep_events(sequences, allowed)
        return self.without_removed(sequences)

    def without_removed(self, sequences: Sequences) -> Sequences:
        """Leave out the events of removed items."""
        if not len(self.catalogue.removed):
            return sequences
        return keep_events(sequences, ~self.catalogue.was_removed(sequences.items))

    def prepared(
        self, name: str, histories: Sequences, *, backfill: Backfill | None = None
    ) -> Sequences:
        """Filter and backfill checked histories, by another backfill than the reader's if given.

        Raises:
          ValueError: a history is empty then and there are no static features, or the backfill
            gives an unknown item.
        """
        read = self.filtered(histories)
        backfill = self.backfill if backfill is None else backfill
        if backfill is not None:
            read = self.without_removed(backfill(read))
            self.check_known("backfill", read.items)
        empty = np.flatnonzero(read.lengths == 0)
        if len(empty) and not self.model.config.static_sizes:
            raise ValueError(
                f"{name}: expected at least one item or a backfill, found none in number {empty[0]}"
            )
        return read

    def in_slots(self, sequences: Sequences) -> Sequences:
        """Name items by their slots, with the columns that are read; all must be in the catalogue.

        A column that nobody reads would be another program all the same.
        """
        columns = {name: getattr(sequences, name) for name in self.columns}
        return Sequences(self.catalogue.find(sequences.items), sequences.offsets, **columns)

    def seen(self, histories: Sequences) -> Sequences:
        """Name what checked histories hold by slots, removed items left out."""
        return self.in_slots(self.without_removed(histories))

    def batches(self, name: str, histories: Sequences) -> Iterator[tuple[np.ndarray, dict]]:
        """Prepare checked histories and cut them into calls: their numbers and padded rows."""
        read = self.in_slots(self.prepared(name, histories))
        for rows in chunks(len(read)):
            yield rows, padded(read.select(rows), self.model.config.max_len)


def padded(histories: Sequences, max_len: int) -> dict[str, np.ndarray]:
    """Lay out rows of a power of two columns, at most max_len: `sequences.pad_histories`."""
    return pad_histories(histories, columns_of(int(histories.lengths.max()), max_len))
