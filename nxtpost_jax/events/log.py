"""Logs as people have them: a dict of columns or any DataFrame, with ids of their own.

A dict of columns needs numpy alone; pandas, polars and arrow are read through narwhals, which is
imported where a DataFrame comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from nxtpost_jax.events.columns import as_array, event_weights, logged_seconds
from nxtpost_jax.events.ids import OwnIds
from nxtpost_jax.events.roles import recognise
from nxtpost_jax.events.sequences import Sequences

Table = Mapping[str, Any] | Any  # a dict of columns, or a DataFrame of whatever library


class Log(NamedTuple):
    """Hold the columns of n events, as they are in the table but for the times.

    Attributes:
      user, item: [n], the caller's ids.
      time: float64[n] in seconds, or None.
      action: [n], the caller's names, or None.
      weight: float32[n], how much each event counts, or None.
      item_column: what the table calls items.
    """

    user: Any
    item: Any
    time: np.ndarray | None
    action: Any | None
    weight: np.ndarray | None = None
    item_column: str | None = None


def is_table(data: object) -> bool:
    """Tell a dict of columns or a DataFrame from lists, arrays and `Sequences`."""
    return isinstance(data, Mapping) or (
        hasattr(data, "columns") and not isinstance(data, np.ndarray)
    )


def read_log(table: Table, columns: Mapping[str, str] | None = None) -> Log:
    """Read a table of events, see `roles.recognise` for which column is what.

    Args:
      table: a dict of n-long columns, or a DataFrame.
      columns: {role: name} of columns whose names say nothing; roles are user, item,
        time, action, weight.

    Raises:
      ValueError: a column is missing, unclear or of another length, a value is missing, or times
        are none that `columns.logged_seconds` reads.
      ModuleNotFoundError: the table is a DataFrame and narwhals is not installed.
    """
    given = _dict_columns(table) if isinstance(table, Mapping) else _frame_columns(table)
    roles = recognise(list(given), columns, optional=("time", "action", "weight"))
    values = {role: given[name]() for role, name in roles.items()}
    count = len(values["user"])
    if not count:
        raise ValueError("events: expected at least one, found an empty table")
    for role, name in roles.items():
        if len(values[role]) != count:
            raise ValueError(
                f"{name}: expected {count} values, one per event, found {len(values[role])}"
            )
    time = values.get("time")
    time = None if time is None else logged_seconds(roles["time"], time)
    weight = values.get("weight")
    weight = None if weight is None else event_weights(roles["weight"], weight)
    ids = values["user"], values["item"]
    return Log(*ids, time, values.get("action"), weight, item_column=roles["item"])


def grouped(
    log: Log, item_codes: np.ndarray, action_codes: np.ndarray | None
) -> tuple[Sequences, OwnIds]:
    """Group a log by user, in the order of their first events; codes below 0 leave an event out.

    Returns:
      One sequence per user, and the users' own ids.

    Raises:
      ValueError: a user is missing, or a time is not finite.
    """
    users = OwnIds()
    user_codes = users.add("user", log.user)
    kept = item_codes >= 0

    def column(values):
        return None if values is None else values[kept]

    sequences = Sequences.from_events(
        user_codes[kept],
        item_codes[kept],
        times=column(log.time),
        actions=column(action_codes),
        weights=column(log.weight),
        num_users=len(users),
    )
    return sequences, users


def _dict_columns(table: Mapping):
    def values(name):
        column = table[name]
        if isinstance(column, (list, tuple)):
            return column
        array = as_array(name, column)
        if array.ndim != 1:
            raise ValueError(f"{name}: expected one dimension, found shape {list(array.shape)}")
        return array

    return {name: (lambda name=name: values(name)) for name in table}


def narwhals() -> ModuleType:
    """Import narwhals, which reads and makes DataFrames.

    Raises:
      ModuleNotFoundError: it is not installed.
    """
    try:
        import narwhals
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "nxtpost_jax needs narwhals: pip install 'shampoo-nxtpost-hsnn[frames]'",
            name="narwhals",
        ) from None
    return narwhals


def _frame_columns(table):
    frame = in_memory("events", table, otherwise="lists of items")
    return {name: (lambda name=name: frame_values(frame, name)) for name in frame.columns}


def in_memory(argument: str, table: Any, *, otherwise: str) -> Any:
    """Wrap a DataFrame of whatever library by narwhals.

    Raises:
      ValueError: it is none, or a lazy one; `otherwise` says what else the argument may be.
      ModuleNotFoundError: narwhals is not installed.
    """
    nw = narwhals()
    frame = nw.from_native(table, eager_only=True, pass_through=True)
    if not isinstance(frame, nw.DataFrame):
        raise ValueError(
            f"{argument}: expected a DataFrame in memory (collect a lazy one), a dict of columns "
            f"or {otherwise}, found {type(table).__name__}"
        )
    return frame


def frame_values(frame: Any, name: str) -> np.ndarray:
    """Read a column of what `in_memory` gave, [n].

    Raises:
      ValueError: a value is missing.
    """
    nw, series = narwhals(), frame.get_column(name)
    if series.null_count():
        row = int(np.flatnonzero(series.is_null().to_numpy())[0])
        raise ValueError(f"{name}: expected a value in every row, found none in row {row}")
    if series.dtype == nw.Date:
        series = series.cast(nw.Datetime("us"))
    if series.dtype == nw.Datetime:  # with a zone or without: then it is in UTC
        return series.dt.timestamp("us").to_numpy() / 1e6
    if series.dtype in (nw.Categorical, nw.Enum):
        series = series.cast(nw.String)
    return series.to_numpy()
