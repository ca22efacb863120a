"""Users of `update` as plain arrays: their names and events. Vectors and caches are made anew."""

from __future__ import annotations

import uuid
from collections.abc import Hashable, Mapping

import numpy as np

from nxtpost_jax.events.ids import OwnIds, is_missing
from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.folders import nested

_COLUMNS = {"times": np.float64, "actions": np.int32, "surfaces": np.int32}


def stored(users: Mapping[Hashable, Sequences]) -> dict[str, np.ndarray]:
    """Give plain arrays that `restored` reads, of at least one user and one sequence each.

    Raises:
      ValueError: a name is none that an array can hold: a whole number, a text or a UUID.
    """
    for name in users:
        whole = isinstance(name, (int, np.integer)) and not isinstance(name, bool)
        if not (whole or isinstance(name, (str, uuid.UUID))) or is_missing(name):
            raise ValueError(
                "users: expected whole numbers, texts or UUIDs, which a folder can hold, found "
                f"{name!r:.60}"
            )
    names = OwnIds()
    names.add("users", list(users))
    events = list(users.values())
    arrays = {f"names/{part}": array for part, array in names.stored().items()}
    arrays["items"] = np.concatenate([each.items for each in events])
    arrays["lengths"] = np.array([len(each.items) for each in events])
    for column, dtype in _COLUMNS.items():
        given = [getattr(each, column) for each in events]
        arrays[f"has/{column}"] = np.array([values is not None for values in given])
        parts = [np.zeros(0, dtype), *(values for values in given if values is not None)]
        arrays[column] = np.concatenate(parts)
    static = [[] if each.static is None else each.static[0] for each in events]
    arrays["widths"] = np.array([len(features) for features in static])
    arrays["static"] = np.concatenate([np.zeros(0, np.int32), *static]).astype(np.int32)
    return arrays


def restored(arrays: Mapping[str, np.ndarray]) -> dict[Hashable, Sequences]:
    """Read what `stored` gave."""
    parts = nested(arrays)
    names = OwnIds.restore(parts["names"])
    lengths = parts["lengths"]
    columns: dict[str, list] = {"items": _cut(parts["items"], lengths)}
    for column in _COLUMNS:
        has = parts["has"][column]
        cut = iter(_cut(parts[column], lengths[has]))
        columns[column] = [next(cut) if there else None for there in has]
    static = [row[None] if len(row) else None for row in _cut(parts["static"], parts["widths"])]
    users = {}
    for row, name in enumerate(names.take(np.arange(len(names))).tolist()):
        items, *rest = (columns[column][row] for column in ("items", *_COLUMNS))
        given = dict(zip(_COLUMNS, rest))
        users[name] = Sequences(items, np.array([0, len(items)]), static=static[row], **given)
    return users


def _cut(values: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Cut values into pieces of some lengths."""
    return np.split(values, np.cumsum(lengths)[:-1]) if len(lengths) else []
