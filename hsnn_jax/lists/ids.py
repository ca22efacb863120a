"""The callers' ids of items: integers, in arrays, or anything hashable, by a dict.

Integers are int64 [n] by row, with -1 in free rows; other ids, such as strings or UUIDs, are an
object array with None there. An index has one kind or the other, as it was built.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from hsnn_jax.lists.checks import as_integers


class Table(NamedTuple):
    """Where the ids that are present lie."""

    ids: np.ndarray  # int64 [m], ascending; or object [m] in any order
    rows: np.ndarray  # int [m]
    places: dict | None = None  # the row of each id that is no integer


def table_of(ids: np.ndarray) -> Table:
    """Return the table of the ids by row [n]."""
    present = np.flatnonzero(~free(ids))
    if ids.dtype == object:
        return Table(ids[present], present, dict(zip(ids[present], present.tolist())))
    order = present[np.argsort(ids[present], kind="stable")]
    return Table(ids[order], order)


def free(ids: np.ndarray) -> np.ndarray:
    """Return bool [n]: which rows have no id."""
    return np.array([i is None for i in ids], bool) if ids.dtype == object else ids < 0


def blank(ids: np.ndarray) -> int | None:
    """Return what stands for no id among ids of this kind."""
    return None if ids.dtype == object else -1


def with_free_rows(ids: np.ndarray, more: int) -> np.ndarray:
    """Return ids by row with so many more rows that have none."""
    return np.concatenate([ids, np.full(more, blank(ids), ids.dtype)])


def with_new(table: Table, ids: np.ndarray, *, rows: np.ndarray) -> Table:
    """Return the table with further ids [b] in these rows [b]."""
    if table.places is not None:
        places = table.places | dict(zip(ids, rows.tolist()))
        joined = np.concatenate([table.ids, ids]), np.concatenate([table.rows, rows])
        return Table(joined[0], joined[1], places)
    order = np.argsort(ids, kind="stable")
    at = np.searchsorted(table.ids, ids[order])
    return Table(np.insert(table.ids, at, ids[order]), np.insert(table.rows, at, rows[order]))


def without(table: Table, ids: np.ndarray, *, rows: np.ndarray) -> Table:
    """Return the table without ids [b] that it has, which are in rows [b]."""
    if table.places is None:
        at = np.searchsorted(table.ids, ids)
        return Table(np.delete(table.ids, at), np.delete(table.rows, at))
    places = table.places.copy()
    for i in ids:
        del places[i]
    kept = ~np.isin(table.rows, rows)
    return Table(table.ids[kept], table.rows[kept], places)


def rows_of(table: Table, ids: np.ndarray) -> np.ndarray:
    """Return the rows of ids [...] of the table's kind, int32; -1 where unknown."""
    if table.places is not None:
        found = [table.places.get(i, -1) for i in ids.ravel()]
        return np.array(found, np.int32).reshape(ids.shape)
    if not table.ids.size:
        return np.full(np.shape(ids), -1, np.int32)
    at = np.minimum(np.searchsorted(table.ids, ids), table.ids.size - 1)
    return np.where(table.ids[at] == ids, table.rows[at], -1).astype(np.int32)


def as_ids(
    name: str, ids: Any, *, size: int | None = None, like: np.ndarray | None = None
) -> np.ndarray:
    """Return distinct ids as int64 [size], of integers >= 0, or as an object array [size].

    Args:
      name: of the argument, for errors.
      ids: [size].
      size: expected; any by default.
      like: ids of the kind that is expected; by default integers are, if all ids are.

    Raises:
      ValueError: they are not that.
    """
    ids = as_known(name, ids, axes=1, like=like)
    if ids.ndim != 1 or (size is not None and ids.size != size):
        wanted = "b" if size is None else size
        raise ValueError(f"{name}: expected shape [{wanted}], found {list(ids.shape)}")
    if ids.dtype == object:
        _check_distinct(name, ids)
        return ids
    if ids.size and ids.min() < 0:
        raise ValueError(f"{name}: expected ids >= 0, found {ids.min()}")
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        twice = values[np.argmax(counts > 1)]
        raise ValueError(f"{name}: expected distinct ids, found {twice} twice or more")
    return ids


def _check_distinct(name, ids):
    seen = set()
    for i in ids:
        if i is None:
            raise ValueError(f"{name}: expected ids, found None, which stands for no id")
        if i in seen:
            raise ValueError(f"{name}: expected distinct ids, found {i!r} twice or more")
        seen.add(i)


def as_known(name: str, ids: Any, *, axes: int, like: np.ndarray | None = None) -> np.ndarray:
    """Return ids of an index, or unknown ones, as int64 or object array of any shape.

    Args:
      name: of the argument, for errors.
      ids: of `axes` axes; lists may hold ids that are sequences themselves, such as tuples.
      axes: 1 or 2.
      like: see `as_ids`.

    Raises:
      ValueError: integers were expected, or ids are not hashable, or integers beyond 63 bits.
    """
    if like is not None and like.dtype != object:
        return as_integers(name, ids)
    if like is None and _are_numbers(ids, axes):
        return as_integers(name, ids)
    held = _as_objects(name, ids, axes)
    wide = [i for i in held.ravel() if isinstance(i, int) and not -(2**63) <= i < 2**63]
    if wide:
        raise ValueError(f"{name}: expected integers below 2^63, found {wide[0]}")
    return held


def _are_numbers(ids, axes):
    """Tell whether numpy reads ids as numbers; strings among numbers are not."""
    try:
        found = ids if isinstance(ids, np.ndarray | jax.Array) else np.asarray(ids)
    except ValueError:  # of several lengths
        return False
    return found.ndim == axes and (found.dtype.kind in "iufcb" or not found.size)


def _as_objects(name, ids, axes):
    if isinstance(ids, np.ndarray | jax.Array):
        ids = np.asarray(ids).tolist()
    elif not isinstance(ids, Iterable) or isinstance(ids, str | bytes):
        raise ValueError(f"{name}: expected a list of ids, found {ids!r}")
    rows = [_plain(i) for i in ids] if axes == 1 else [_plain_row(name, row) for row in ids]
    widths = {len(row) for row in rows} if axes == 2 else set()
    if len(widths) > 1:
        raise ValueError(f"{name}: expected rows of one length, found {sorted(widths)}")
    held = np.empty(len(rows) if axes == 1 else (len(rows), *(widths or {0})), object)
    for place in np.ndindex(held.shape):
        one = rows[place[0]] if axes == 1 else rows[place[0]][place[1]]
        try:
            hash(one)
        except TypeError:
            raise ValueError(f"{name}: expected hashable ids, found {one!r}") from None
        held[place] = one
    return held


def _plain_row(name, row):
    if isinstance(row, str | bytes) or not isinstance(row, Iterable):
        raise ValueError(f"{name}: expected rows of ids, found {row!r} for a row")
    return [_plain(i) for i in row]


def _plain(one):
    """Return Python's own value of a numpy scalar: of one hash, and readable from a file."""
    return one.item() if isinstance(one, np.generic) else one
