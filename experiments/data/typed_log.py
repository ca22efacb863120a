"""A log whose values have types already, of a parquet file or of lines of JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.log_table import LogTable, notes_of
from experiments.data.table import MAX_TOKEN
from experiments.harness.errors import InputError
from nxtpost_jax.events.ids import flat_ids
from nxtpost_jax.events.log import read_log
from nxtpost_jax.events.roles import Role


def typed_log(
    table: Any, roles: Mapping[Role, str], *, path: Path, names: Sequence[str]
) -> LogTable:
    """Read the columns of the roles as `Recommender.fit` reads them.

    Args:
      table: a dict of columns, or a DataFrame.
      roles: the name of the column of each, from `log_table.roles_of`.
      path: what errors name.
      names: all columns of the file, of which notes say what is left out.

    Raises:
      InputError: a value is missing or none of its role.
    """
    try:
        log = read_log(table, {str(role): name for role, name in roles.items()})
        columns: dict[Role, np.ndarray] = {"user": _ids("user", log.user)}
        columns["item"] = _ids("item", log.item)
        assert log.time is not None  # required
        if not np.isfinite(log.time).all():
            row = int(np.argmin(np.isfinite(log.time)))
            raise ValueError(
                f"{roles['time']}: expected finite times, found one of {log.time[row]}"
            )
        columns["time"] = log.time
        if log.action is not None:
            columns["action"] = np.asarray(log.action).astype(str)
        if log.weight is not None:
            columns["weight"] = np.asarray(log.weight)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    return LogTable(columns, notes_of(names, roles), roles["item"])


def _ids(name: str, values) -> np.ndarray:
    """Read ids as int64 or texts, as the other readers do."""
    kind, flat = flat_ids(name, values)
    if kind == "others":
        raise ValueError(f"{name}: expected whole numbers or texts, found {flat[0]!r:.60}")
    if kind == "numbers":
        return flat.astype(np.int64)
    # An array of texts is as wide as its longest one.
    longest = max(map(str, flat), key=len)
    if len(longest) > MAX_TOKEN:
        raise ValueError(
            f"{name}: expected texts of at most {MAX_TOKEN} letters, found {longest!r:.60}"
        )
    return flat.astype(str)
