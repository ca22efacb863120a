"""A log of events as a table of text with a header, whatever its columns are called.

The columns are recognised as `nxtpost_jax.Recommender.fit` recognises them (`events.roles`): in any
order, beside any others, between commas, tabs, semicolons or bars, quoted or not.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.files import decode_utf8
from experiments.data.table import Kind, csv_rows, joined_rows, read_columns
from experiments.harness.errors import bad_input, shown
from nxtpost_jax.events.roles import ColumnError, Role, recognise, unread_rating

_SEPARATORS = (",", "\t", ";", "|")
_NAME = re.compile(r"[^\W\d][\w .:()-]*|")  # of a column; the index of pandas has none
_KINDS: dict[Role, Kind] = {
    "user": "id",
    "item": "id",
    "time": "seconds",
    "action": "text",
    "weight": "number",
}


class LogTable(NamedTuple):
    """Hold the columns of n events.

    Attributes:
      columns: [n] by role; user, item and time always.
      notes: what was left out.
      item_column: what the file calls items.
    """

    columns: dict[Role, np.ndarray]
    notes: tuple[str, ...]
    item_column: str


class _Header(NamedTuple):
    separator: str
    names: list[str]
    roles: dict[Role, str]


def parse_columns(text: str | None) -> dict[str, str] | None:
    """Read what --columns says: `user=visitorid,item=itemid`.

    Raises:
      InputError: it says something else.
    """
    if text is None:
        return None
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(role.strip() and name.strip() for role, _, name in pairs):
        raise bad_input("--columns", expected="user=NAME,item=NAME,...", found=shown(text))
    return {role.strip(): name.strip() for role, _, name in pairs}


def is_log(first_line: bytes) -> bool:
    """Say whether a line is the header of a log whose columns are recognised."""
    try:
        _recognised(first_line.decode("utf-8-sig", "replace"), None, rating=False)
    except ColumnError:
        return False
    return True


def is_header(first_line: bytes) -> bool:
    """Say whether a line has names where a table would have numbers."""
    names = _names(first_line.decode("utf-8-sig", "replace"))[1]
    return len(names) > 1 and all(_NAME.fullmatch(name) for name in names)


def read_log_table(
    data: bytes, path: Path, *, given: Mapping[str, str] | None = None, rating: bool = False
) -> LogTable:
    """Read user, item, time and, where there are any, action and weight.

    Times are seconds since 1970, finer units where all of the column are, or ISO 8601. A column
    `weight` is the weight; a rating is one where `rating` says so, or the caller.

    Args:
      data: of the file.
      given: {role: name} of columns that the caller names.
      rating: take a rating for the weight.

    Raises:
      InputError: a column is missing or unclear, or a line is malformed.
    """
    decode_utf8(data, path)
    line, _, body = data.partition(b"\n")
    try:
        header = _recognised(line.decode("utf-8-sig"), given, rating=rating)
    except ColumnError as error:
        raise bad_input(path, line=1, expected=error.expected, found=error.found) from None
    kinds: dict[str, Kind] = {name: _KINDS[role] for role, name in header.roles.items()}
    body, separator, names = _unquoted(data, body, path, header, kinds)
    columns: dict[str, Kind] = {}
    for number, name in enumerate(names, 1):  # names of extra columns may be empty or come twice
        columns[f"column {number}" if name in ("", *columns) else name] = kinds.get(name, "extra")
    time = header.roles["time"]
    if not _is_number(body, separator, names.index(time)):
        columns[time] = "iso"
    table = read_columns(body, path, separator=separator, columns=columns, first_line=2)
    of_roles: dict[Role, np.ndarray] = {role: table[n] for role, n in header.roles.items()}
    return LogTable(of_roles, notes_of(header.names, header.roles), header.roles["item"])


def roles_of(
    names: Sequence[str], given: Mapping[str, str] | None, *, rating: bool = False
) -> dict[Role, str]:
    """Tell which column of a log has which role; see `read_log_table`.

    Raises:
      ColumnError: a column is missing or unclear.
    """
    given = dict(given or {})
    weights = ("weight", "rating") if rating else ("weight",)
    for name in names:
        if "weight" not in given and name.partition(":")[0].lower() in weights:
            given["weight"] = name
    return recognise(
        names,
        given,
        required=("user", "item", "time"),
        optional=("action", "weight"),
        written=lambda role, name: f"--columns {role}={name}",
    )


def notes_of(names: Sequence[str], roles: Mapping[Role, str]) -> tuple[str, ...]:
    """Say what is left out that could be asked for."""
    left = unread_rating(names, roles)
    return () if left is None else (f"{left} is left out: no weight (--columns weight={left})",)


def _recognised(line: str, given: Mapping[str, str] | None, *, rating: bool) -> _Header:
    separator, names = _names(line)
    return _Header(separator, names, roles_of(names, given, rating=rating))


def _names(line: str) -> tuple[str, list[str]]:
    """Cut a header by the separator that gives the most names."""
    separator = max(_SEPARATORS, key=line.count)
    return separator, [name.strip().strip('"').strip() for name in line.split(separator)]


def _unquoted(data: bytes, body: bytes, path: Path, header: _Header, kinds: Mapping[str, Kind]):
    """Give rows without quotes, their separator and their columns: all, or those of a role."""
    if b'"' not in body:
        return body, header.separator.encode(), header.names
    rows = csv_rows(data, path, delimiter=header.separator)
    names = list(kinds)
    places = [header.names.index(name) for name in names]
    return *joined_rows([[row[place] for place in places] for row in rows[1:]]), names


def _is_number(body: bytes, separator: bytes, place: int) -> bool:
    fields = body.partition(b"\n")[0].strip().split(separator)
    try:
        float(fields[place] if place < len(fields) else b"0")
    except ValueError:
        return False
    return True
