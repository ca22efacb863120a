"""A log of events, and the descriptions of items, as lines of JSON: one object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.data.files import decode_utf8
from experiments.data.log_table import LogTable, roles_of
from experiments.data.table import is_whole
from experiments.data.typed_log import typed_log
from experiments.harness.errors import bad_input, shown
from nxtpost_jax.events.roles import ColumnError

Object = dict[str, Any]


def is_json_log(first_line: bytes) -> bool:
    """Say whether a line is an object whose fields are those of a log."""
    found = _object(first_line)
    try:
        return found is not None and bool(roles_of(list(found), None))
    except ColumnError:
        return False


def is_json(data: bytes) -> bool:
    """Say whether text begins as an object does."""
    return data[:64].removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"


def read_json_table(data: bytes, path: Path, *, given: Mapping[str, str] | None = None) -> LogTable:
    """Read user, item, time and, where there are any, action and weight; see `read_log_table`.

    The first line says which fields there are; whatever else a line has is not kept.

    Args:
      data: of the file.
      given: {role: name} of fields that the caller names.

    Raises:
      InputError: a line is no object, lacks a field, or has a text where others have a number; or
        no field of the first line is clearly the one of a role.
    """
    columns: dict[str, list] = {}
    roles, names = {}, []
    for number, found in _objects(data, path):
        if not columns:
            names = list(found)
            try:
                roles = roles_of(names, given)
            except ColumnError as error:
                raise bad_input(
                    path, line=number, expected=error.expected, found=error.found
                ) from None
            columns = {name: [] for name in roles.values()}
        for name, values in columns.items():
            value = found.get(name)
            wanted = [_kind(values[0])] if values else ["text", "number"]
            if _kind(value) not in wanted:
                expected = f"a {' or '.join(wanted)} as {name}" + (", as before" if values else "")
                what = "none" if value is None else shown(json.dumps(value))
                raise bad_input(path, line=number, expected=expected, found=what)
            values.append(value)
    return typed_log(columns, roles, path=path, names=names)


def read_json_items(data: bytes, path: Path, *, item: str, whole: bool) -> dict[int | str, str]:
    """Read a text per item: all texts of its object, and of its lists, but those that are links.

    Args:
      data: of the file.
      item: the field that has the item's id, as in the log, or "id".
      whole: whether the log's ids are whole numbers; else they are texts.

    Raises:
      InputError: a line is no object, has no id, or an id comes twice.
    """
    texts: dict[int | str, str] = {}
    for number, found in _objects(data, path):
        name = item if item in found else "id"
        key = found.get(name)
        if not isinstance(key, (str, int)) or isinstance(key, bool):
            fields = shown(", ".join(found))
            expected = f"an id as {item} or id"
            advice = f"{fields} (--columns item=NAME takes another field of both)"
            raise bad_input(path, line=number, expected=expected, found=advice)
        key = int(key) if whole and is_whole(str(key)) else str(key)
        if key in texts:
            expected = "one line per item"
            raise bad_input(path, line=number, expected=expected, found=f"{shown(str(key))} twice")
        parts = [text for field, value in found.items() if field != name for text in _texts(value)]
        texts[key] = " ".join(parts)
    return texts


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else "other"


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [
        " ".join(each.split())
        for each in values
        if isinstance(each, str) and "://" not in each and each.strip()
    ]


def _objects(data: bytes, path: Path) -> Iterator[tuple[int, Object]]:
    """Yield the number and the object of each line that is not blank."""
    decode_utf8(data, path)
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = _object(line)
        if found is None:
            raise bad_input(path, line=number, expected="an object of JSON", found=shown(line))
        yield number, found


def _object(line: bytes) -> Object | None:
    """Read an object; None of what is none. NaN and infinity, which Python reads, are no JSON."""
    strange: list[str] = []
    try:
        found = json.loads(line.decode("utf-8-sig"), parse_constant=strange.append)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and not strange else None
