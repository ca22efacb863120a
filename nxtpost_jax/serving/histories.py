"""What callers give as histories and lists of ids, read as `Sequences` of item numbers.

One history or one id is as good as a list of them. An item that nobody knows is named, or left out
and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from nxtpost_jax.arrays import Array
from nxtpost_jax.events import log as logs
from nxtpost_jax.events.checks import as_rows, as_sequences
from nxtpost_jax.events.columns import whole_numbers
from nxtpost_jax.events.filters import keep_events
from nxtpost_jax.events.ids import OwnIds, is_missing
from nxtpost_jax.events.log import Table
from nxtpost_jax.events.sequences import PAD, Sequences
from nxtpost_jax.serving.catalogue import Catalogue, unknown_item
from nxtpost_jax.serving.served import Start

Histories = Sequences | Sequence | Array | Table
Unknown = Literal["refuse", "skip"]


class Given(NamedTuple):
    """Hold histories as they were read.

    Attributes:
      sequences: B of them, of item numbers.
      users: [B], the users' own ids where a table has them, else None.
      skipped: int64[B], unknown items left out.
    """

    sequences: Sequences
    users: np.ndarray | None
    skipped: np.ndarray


def read(
    name: str, histories: Histories, *, start: Start, catalogue: Catalogue, unknown: Unknown
) -> Given:
    """Read histories: `Sequences` of item numbers, a table of events, or lists of the caller's ids.

    Raises:
      ValueError: this is none of these, an item is unknown and shall not be skipped, or as in
        `log.read_log`.
    """
    if unknown not in ("refuse", "skip"):
        raise ValueError(f"unknown: expected 'refuse' or 'skip', found {unknown!r}")
    if logs.is_table(histories):
        return _of_table(histories, start, catalogue, unknown)
    sequences, skipped = _of_lists(name, histories, catalogue, unknown)
    known = is_known(catalogue, sequences.items)
    if unknown == "skip" and not known.all():
        lost = np.bincount(sequences.owners(np.flatnonzero(~known)), minlength=len(sequences))
        return Given(keep_events(sequences, known), None, skipped + lost)
    return Given(sequences, None, skipped)


def numbers(
    name: str, ids: Any, catalogue: Catalogue, *, unknown: Unknown = "refuse"
) -> np.ndarray:
    """Read one id or a list of them as item numbers: int32[m].

    Raises:
      ValueError: an id was never known and shall not be skipped, or can be none.
    """
    ids = as_list(ids)
    if unknown == "skip":
        found = catalogue.names.codes(name, ids)
        return found[is_known(catalogue, found)]
    return catalogue.read(name, ids)


def lists(
    name: str, given: Any, count: int, catalogue: Catalogue, *, unknown: Unknown = "refuse"
) -> Sequences:
    """Read a list of ids per query, padded by what stands for none.

    Raises:
      ValueError: there are not `count` lists, or as in `numbers`.
    """
    if isinstance(given, Sequences):
        rows = given
    else:
        rows = [_unpadded(name, row, catalogue) for row in _rows(name, given)]
    if len(rows) != count:
        raise ValueError(f"{name}: expected {count} lists, one per query, found {len(rows)}")
    sequences, _ = _of_lists(name, rows, catalogue, unknown)
    if unknown == "skip":
        return keep_events(sequences, is_known(catalogue, sequences.items))
    return sequences


def is_known(catalogue: Catalogue, items: np.ndarray) -> np.ndarray:
    """Tell which numbers are of items that are in a catalogue or were removed: bool[m]."""
    return (catalogue.find(items) != PAD) | catalogue.was_removed(items)


def as_list(ids: Any) -> Any:
    """Put one id into a list."""
    single = isinstance(ids, (str, bytes)) or not hasattr(ids, "__len__") or np.ndim(ids) == 0
    return [ids] if single and not isinstance(ids, range) else ids


def _of_lists(name, given, catalogue: Catalogue, unknown: Unknown) -> tuple[Sequences, np.ndarray]:
    if isinstance(given, Sequences):
        return given, np.zeros(len(given), np.int64)
    if not isinstance(catalogue.names, OwnIds):
        sequences = as_sequences(name, _rows(name, given))
        return sequences, np.zeros(len(sequences), np.int64)
    rows = _rows(name, given)
    codes = [catalogue.names.codes(name, row) for row in rows]
    for row, found in zip(rows, codes):
        missing = np.flatnonzero(found == PAD)
        if len(missing) and unknown == "refuse":
            raise unknown_item(name, row[missing[0]])
    lost = np.array([int((found == PAD).sum()) for found in codes], np.int64)
    kept = [found[found != PAD] for found in codes]
    offsets = np.cumsum([0] + [len(row) for row in kept])
    return Sequences(np.concatenate([np.zeros(0, np.int32), *kept]), offsets), lost


def _rows(name: str, given) -> Sequence:
    """Tell one history from several: in it no entry is a list."""
    if isinstance(given, np.ndarray) and given.ndim == 1 and given.dtype != object:
        return [given]
    if isinstance(given, (str, bytes)):
        raise ValueError(f"{name}: expected a list of item ids per user, found {given!r:.60}")
    if not hasattr(given, "__len__"):
        return as_rows(name, given)  # says what it is instead
    entries = list(given)
    are_lists = [isinstance(entry, (list, tuple, range)) or np.ndim(entry) for entry in entries]
    if entries and not any(are_lists):
        return [entries]
    if not all(are_lists):
        number = next(n for n, is_list in enumerate(are_lists) if not is_list)
        raise ValueError(
            f"{name}: expected a list of item ids per user, found {entries[number]!r:.60} as "
            f"number {number}"
        )
    return entries


def _unpadded(name: str, row, catalogue: Catalogue):
    if isinstance(catalogue.names, OwnIds):
        return [item for item in row if not is_missing(item)]
    ids = whole_numbers(name, row, lowest=PAD)
    return ids[ids != PAD]


def _of_table(table: Table, start: Start, catalogue: Catalogue, unknown: Unknown) -> Given:
    log = logs.read_log(table, start.columns)
    items = catalogue.names.codes("item", log.item)
    known = is_known(catalogue, items)
    if unknown == "refuse" and not known.all():
        raise unknown_item("item", log.item[int(np.argmin(known))])
    sequences, users = logs.grouped(log, np.where(known, items, PAD), _actions(log, start))
    owners = users.codes("user", log.user)
    skipped = np.bincount(owners[~known], minlength=len(users))
    return Given(sequences, users.take(np.arange(len(users))), skipped)


def _actions(log: logs.Log, start: Start) -> np.ndarray | None:
    if log.action is None or start.actions is None:
        return None
    codes = start.actions.codes("action", log.action)
    unknown = np.flatnonzero(codes == PAD)
    if len(unknown):
        found = log.action[unknown[0]]
        raise ValueError(f"action: expected one that training had, found {str(found)!r:.60}")
    return codes
