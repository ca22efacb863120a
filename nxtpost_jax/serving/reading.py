"""From the caller's histories to what a model reads: checked, filtered, in catalogue slots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from nxtpost_jax.evaluation.ranking import unique_items
from nxtpost_jax.events.checks import as_sequences, check_times, checked_mask
from nxtpost_jax.events.filters import keep_events
from nxtpost_jax.events.sequences import PAD, Sequences, pad_histories
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.towers.config import NxtPostConfig

SHORTEST_ROW = 16  # padded histories are no shorter, to bound the number of traced shapes
MOST_ROWS = 256  # histories a compiled call, so that scores of a large catalogue fit in memory

Histories = Sequences | Sequence
EventFilter = Callable[[Sequences], np.ndarray]
Backfill = Callable[[Sequences], Sequences]


def check_readable(
    name: str, histories: Histories, catalogue: Catalogue, config: NxtPostConfig, params
) -> Sequences:
    """Refuse histories that the model cannot read, whatever will be left out of them.

    Raises:
      ValueError: there is none, an item is neither in the catalogue nor removed from it, times
        are out of order, or a column that the model was trained with is missing.
    """
    histories = as_sequences(name, histories)
    if not len(histories):
        raise ValueError(f"{name}: expected at least one, found none")
    check_known(name, histories, catalogue)
    check_times(name, histories)
    tables = params["user_tower"]
    needed = {
        "times": "gaps" in tables,
        "actions": "actions" in tables or config.action_weights is not None,
        "surfaces": "surfaces" in tables,
        "static": bool(config.static_sizes),
    }
    for column, is_read in needed.items():
        if is_read and getattr(histories, column) is None:
            raise ValueError(
                f"{name}: expected Sequences with {column}, which this model was trained with, "
                "found none"
            )
    return histories


def check_known(name: str, histories: Sequences, catalogue: Catalogue) -> None:
    """Refuse items that are neither in the catalogue nor removed from it."""
    items = np.unique(histories.items)
    catalogue.slots(name, items[~catalogue.was_removed(items)])


def filtered(
    sequences: Sequences, catalogue: Catalogue, event_filter: EventFilter | None
) -> Sequences:
    """Leave out what the event filter refuses, and the events of removed items."""
    if event_filter is not None:
        allowed = checked_mask("event_filter", event_filter(sequences), len(sequences.items))
        sequences = keep_events(sequences, allowed)
    return without_removed(sequences, catalogue)


def prepared(
    name: str,
    histories: Sequences,
    catalogue: Catalogue,
    config: NxtPostConfig,
    *,
    event_filter: EventFilter | None,
    backfill: Backfill | None,
) -> Sequences:
    """Filter and backfill checked histories.

    Raises:
      ValueError: a history is empty then and there are no static features, or the backfill gives
        an unknown item.
    """
    read = filtered(histories, catalogue, event_filter)
    if backfill is not None:
        read = without_removed(backfill(read), catalogue)
        check_known("backfill", read, catalogue)
    empty = np.flatnonzero(read.lengths == 0)
    if len(empty) and not config.static_sizes:
        raise ValueError(
            f"{name}: number {empty[0]} is empty, expected at least one item, or a backfill"
        )
    return read


def without_removed(sequences: Sequences, catalogue: Catalogue) -> Sequences:
    """Leave out the events of removed items."""
    if not len(catalogue.removed):
        return sequences
    return keep_events(sequences, ~catalogue.was_removed(sequences.items))


def in_slots(sequences: Sequences, catalogue: Catalogue) -> Sequences:
    """Name items by their slots; all must be in the catalogue."""
    columns = {name: getattr(sequences, name) for name in ("times", "actions", "surfaces")}
    slots = catalogue.find(sequences.items)
    return Sequences(slots, sequences.offsets, static=sequences.static, **columns)


def padded(histories: Sequences, max_len: int) -> dict[str, np.ndarray]:
    """Lay out rows of a power of two columns, at most max_len: `sequences.pad_histories`."""
    width = max(power_of_two(int(histories.lengths.max())), SHORTEST_ROW)
    return pad_histories(histories, min(max_len, width))


def chunks(count: int) -> Iterator[np.ndarray]:
    """Split range(count) into rows of one call each, filled up to a power of two."""
    for start in range(0, count, MOST_ROWS):
        rows = np.arange(start, min(start + MOST_ROWS, count))
        yield np.resize(rows, power_of_two(len(rows)))


def left_out(seen: Sequences | None, rows) -> np.ndarray:
    """List the distinct items of some histories: int32[B, S], a power of two wide."""
    if seen is None:
        return np.full((len(rows), 1), PAD, np.int32)
    seen = seen.select(rows)
    return unique_items(seen, power_of_two(int(seen.lengths.max())))


def power_of_two(count: int) -> int:
    """Round up to a power of two."""
    return 1 << max(count - 1, 0).bit_length()
