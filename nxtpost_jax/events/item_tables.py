"""Items as people have them: a table of them or a record each, read as columns of plain values.

A dict of columns needs numpy alone; DataFrames are read as in `log`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nxtpost_jax.events import log as logs
from nxtpost_jax.events.columns import as_array
from nxtpost_jax.events.log import Table

Columns = Mapping[str, list]  # values by the column's name, None where there is none
Record = Mapping[str, Any]


class Column(NamedTuple):
    """Hold what one column says of m items.

    Attributes:
      name: the column's.
      ids: [m], the caller's, for what errors say.
      values: m of them, None where there is none.
    """

    name: str
    ids: Sequence
    values: list

    def error(self, row: int, expected: str, *, advice: str = "") -> ValueError:
        """Say that a value is none that was expected."""
        shown = " ".join(f"{self.values[row]!r:.60}".split())  # arrays have lines
        return ValueError(
            f"content: expected {expected} in {self.name!r}, found {shown} of item "
            f"{self.ids[row]!r:.60}{advice}"
        )


def names_of(table: Table) -> list[str]:
    """List the names of a table's columns.

    Raises:
      ValueError: two are alike, or a DataFrame is not in memory.
      ModuleNotFoundError: the table is a DataFrame and narwhals is not installed.
    """
    given = table if isinstance(table, Mapping) else _frame(table).columns
    names = [str(name) for name in given]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"content: expected one column {twice!r}, found several")
    return names


def of_table(table: Table, *, id_column: str) -> tuple[list, Columns]:
    """Read a table of items: their ids [m], and the other columns.

    Raises:
      ValueError: the table is empty, a column is of another length, or an id is missing.
    """
    names_of(table)  # refuses what cannot be read by name
    if isinstance(table, Mapping):
        columns = {str(name): _listed(str(name), column) for name, column in table.items()}
        ids = columns.pop(id_column)
    else:
        frame = _frame(table)
        own = {str(name): name for name in frame.columns}
        ids: Any = logs.frame_values(frame, own.pop(id_column))
        columns = {name: _of_series(frame.get_column(each)) for name, each in own.items()}
    ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if not len(ids):
        raise ValueError("content: expected at least one item, found an empty table")
    for name, values in columns.items():
        if len(values) != len(ids):
            raise ValueError(
                f"content: expected {len(ids)} values in {name!r}, one per item, "
                f"found {len(values)}"
            )
    return ids, {name: list(map(_there, values)) for name, values in columns.items()}


def of_records(records: Sequence[Record | None], ids: Sequence) -> Columns:
    """Read a record per item as columns; what a record does not say is None.

    Raises:
      ValueError: one of them is no record.
    """
    for record, item in zip(records, ids):
        if record is not None and not isinstance(record, Mapping):
            found = f"{record!r:.60} of item {item!r:.60}"
            raise ValueError(f"content: expected a record for each item, found {found}")
    given = [{} if record is None else record for record in records]
    names = dict.fromkeys(name for record in given for name in record)
    return {str(name): [_there(record.get(name)) for record in given] for name in names}


def _frame(table: Any) -> Any:
    return logs.in_memory("content", table, otherwise="a record per item")


def _listed(name: str, column: Any) -> list:
    if isinstance(column, (list, tuple)):
        return list(column)
    array = as_array(name, column)
    if not array.ndim:
        raise ValueError(f"content: expected a column in {name!r}, found {column!r:.60}")
    # numpy would make whole numbers of moments, and lists of rows
    return list(array) if array.ndim > 1 or array.dtype.kind in "mM" else array.tolist()


def _of_series(series: Any) -> list:
    missing = series.is_null().to_numpy().tolist()
    return [None if lost else value for value, lost in zip(series.to_list(), missing)]


def _there(value: Any) -> Any:
    """Put None in the place of what says nothing: NaN, a blank text, an empty list."""
    if isinstance(value, str):
        return value if value.strip() else None
    if hasattr(value, "__len__"):
        return value if len(value) else None
    if isinstance(value, (float, np.floating)):
        return None if value != value else value
    # pandas' own none, which is not even unequal to itself
    return None if type(value).__name__ in ("NAType", "NaTType") else value
