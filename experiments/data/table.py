"""Tables of text parsed at the speed of numpy, strictly, with exact line numbers in errors.

A vectorised pass finds the separators in the raw bytes and converts whole columns. Only when it
meets something unexpected does a slow pass walk the lines to name the first that is malformed.
"""

import csv
import io
import re
from pathlib import Path
from typing import Literal

import numpy as np

from experiments.data.files import decode_utf8
from experiments.harness.errors import InputError, bad_input, shown
from nxtpost_jax.events.columns import logged_seconds

Kind = Literal["int", "number", "seconds", "whole_seconds", "iso", "id", "text", "digits", "extra"]

MAX_TOKEN = 256  # bytes: columns become fixed-width arrays, so one long token must not blow them up
_UNIT = b"\x1f"  # unit separator: stands for separators of several bytes
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_INT_LINE = re.compile(rb"[ \t]*\d{1,18}([ \t]+\d{1,18})*[ \t]*")
_TEXT = re.compile(rb"[^\0]{1,256}")
_FIELD: dict[Kind, tuple[re.Pattern[bytes], str]] = {
    "int": (re.compile(rb"\d{1,18}"), "a whole number"),
    "number": (_NUMBER, "a number that float32 can hold"),
    "seconds": (_NUMBER, "unix seconds"),
    "whole_seconds": (re.compile(rb"\d{1,18}"), "whole unix seconds"),
    "iso": (_TEXT, "unix seconds or a date as 2010-12-31 08:26:00"),
    "id": (_TEXT, "1-256 bytes of UTF-8"),
    "text": (_TEXT, "1-256 bytes of UTF-8"),
    "digits": (re.compile(rb"\d{1,256}"), "digits"),
    "extra": (re.compile(rb".*"), "anything"),
}
# float32 holds weights. A moment since 1973 in a finer unit than seconds is beyond 1e11, which as
# seconds is the year 5138.
_LARGEST = {"number": float(np.finfo(np.float32).max), "seconds": 1e11, "whole_seconds": 1e11}
_LATEST_IN_ANY_UNIT = 1e20  # nanoseconds of the year 5138
_UNITS = ((1e17, "nanoseconds"), (1e14, "microseconds"), (1e11, "milliseconds"))
_IS_DIGIT_BYTE = np.isin(np.arange(256), np.frombuffer(b"0123456789\0", np.uint8))
_IS_NUMBER_BYTE = np.isin(np.arange(256), np.frombuffer(b"0123456789+-.eE\0", np.uint8))


class _Malformed(Exception):
    """The fast pass met something that the slow pass must name."""


def read_columns(
    data: bytes,
    path: Path,
    *,
    separator: bytes,
    columns: dict[str, Kind],
    first_line: int = 1,
) -> dict[str, np.ndarray]:
    """Parse lines of `columns` separated by `separator` into one array per column.

    Kinds: "int" -> int64 [n], unsigned in the file; "number" -> float64 [n], finite in float32;
    "whole_seconds" -> int64 [n], up to 1e11, so that finer units are refused; "seconds" -> float64
    [n], of a finer unit where all of the column are beyond 1e11; "iso", dates of ISO 8601 ->
    float64 [n] seconds; "extra" -> left out; "text" -> str [n]; "digits" -> str [n], leading zeros
    kept; "id" -> int64 when every token is a canonical whole number (no leading zero), else str.
    `first_line` is the number of the first line of `data` in the file.

    Raises:
        InputError: names the first malformed line.
    """
    lines = _normalised(data)
    if not lines:
        raise bad_input(path, line=first_line, expected="at least one event", found="none")
    try:
        buffer, start, stop = _split(lines, separator, len(columns))
        return {
            name: _convert(buffer, start[:, j], stop[:, j], kind)
            for j, (name, kind) in enumerate(columns.items())
            if kind != "extra"
        }
    except _Malformed:
        raise _name_line(lines, path, separator, columns, first_line) from None


def read_int_lines(data: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Parse lines of whole numbers, as many as each line likes, separated by blanks.

    Returns:
        values int64 [n] and offsets int64 [n_lines + 1]: line i is values[offsets[i]:offsets[i+1]].

    Raises:
        InputError: names the first line that is empty or holds something else.
    """
    lines = _normalised(data)
    buffer = np.frombuffer(b"\n" + lines, np.uint8)
    is_digit = buffer - np.uint8(48) < 10
    is_newline = buffer == 10
    edge = np.diff(is_digit.view(np.int8))
    start, stop = np.flatnonzero(edge == 1) + 1, np.flatnonzero(edge == -1) + 1
    newlines = np.flatnonzero(is_newline)
    offsets = np.searchsorted(start, newlines)
    try:
        if not np.all(is_digit | is_newline | (buffer == 32) | (buffer == 9)):
            raise _Malformed
        if len(start) == 0 or np.any(np.diff(offsets) == 0):
            raise _Malformed
        return _to_int(buffer, start, stop), offsets
    except _Malformed:
        raise _name_int_line(lines, path) from None


def csv_rows(data: bytes, path: Path, *, delimiter: str = ",") -> list[list[str]]:
    """Parse a small or quoted UTF-8 csv file; every row must be as wide as the header.

    Raises:
        InputError: names the first row that is not, or that is not csv.
    """
    text = io.StringIO(decode_utf8(data, path), newline="")
    reader = csv.reader(text, strict=True, delimiter=delimiter)
    rows: list[list[str]] = []
    try:
        for row in reader:
            if rows and len(row) != len(rows[0]):
                if not row:
                    continue
                expected = f"{len(rows[0])} fields ({','.join(rows[0])})"
                raise bad_input(
                    path, line=reader.line_num, expected=expected, found=f"{len(row)} fields"
                )
            rows.append(row)
    except csv.Error as error:
        raise bad_input(path, line=reader.line_num, expected="csv", found=str(error)) from error
    if not rows:
        raise bad_input(path, expected="a header", found="an empty file")
    return rows


def is_whole(text: str) -> bool:
    """Say whether a text is a whole number of at most 18 digits."""
    return text.isascii() and text.isdecimal() and len(text) <= 18


def joined_rows(rows: list[list[str]]) -> tuple[bytes, bytes]:
    """Return rows as lines for `read_columns`, and their separator."""
    return "\n".join(_UNIT.decode().join(row) for row in rows).encode(), _UNIT


def _normalised(data: bytes) -> bytes:
    """Return lines that all end in a newline, none blank at the end."""
    lines = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").rstrip(b"\n")
    return lines + b"\n" if lines else b""


def _split(lines: bytes, separator: bytes, width: int) -> tuple[np.ndarray, ...]:
    """Return the bytes and the starts and stops [n, width] of all fields."""
    if len(separator) > 1:
        if _UNIT in lines:
            raise _Malformed
        lines, separator = lines.replace(separator, _UNIT), _UNIT
    buffer = np.frombuffer(lines, np.uint8)
    stop = np.flatnonzero((buffer == separator[0]) | (buffer == 10))
    if len(stop) % width:
        raise _Malformed
    stop = stop.reshape(-1, width)
    if np.any((buffer[stop] == 10) != (np.arange(width) == width - 1)[None, :]):
        raise _Malformed
    start = np.concatenate([[0], stop.ravel()[:-1] + 1]).reshape(stop.shape)
    return buffer, start, stop


def _convert(buffer: np.ndarray, start: np.ndarray, stop: np.ndarray, kind: Kind) -> np.ndarray:
    if kind == "int":
        return _to_int(buffer, start, stop)
    if kind == "whole_seconds":
        values = _to_int(buffer, start, stop)
        if values.max() > _LARGEST[kind]:
            raise _Malformed
        return values
    if kind == "seconds":
        return _to_seconds(_to_number(buffer, start, stop, _LATEST_IN_ANY_UNIT))
    if kind in _LARGEST:
        return _to_number(buffer, start, stop, _LARGEST[kind])
    if kind == "id" and (values := _to_canonical_int(buffer, start, stop)) is not None:
        return values
    tokens = _to_tokens(buffer, start, stop)
    if kind == "digits" and not np.all(_IS_DIGIT_BYTE[tokens.view(np.uint8)]):
        raise _Malformed
    if kind == "iso":
        dates, places = np.unique(tokens, return_inverse=True)
        return _to_seconds(np.char.decode(dates, "utf-8", "replace"))[places]
    try:
        return np.char.decode(tokens, "utf-8")
    except UnicodeDecodeError:
        raise _Malformed from None


def _to_int(buffer: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Convert fields of 1 to 18 digits to int64, one decimal place at a time."""
    length = stop - start
    if length.min() < 1 or length.max() > 18:
        raise _Malformed
    values = np.zeros(len(start), np.int64)
    for place in range(int(length.max())):
        digits = buffer[np.maximum(stop - 1 - place, 0)] - np.uint8(48)
        digits = np.where(length > place, digits, 0)
        if digits.max() > 9:
            raise _Malformed
        values += digits * np.int64(10**place)
    return values


def _to_canonical_int(buffer: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray | None:
    """Convert fields to int64 where each is a whole number without leading zeros, else None."""
    if np.any((buffer[start] == 48) & (stop - start > 1)):
        return None
    try:
        return _to_int(buffer, start, stop)
    except _Malformed:
        return None


def _to_tokens(buffer: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Gather fields into a fixed-width byte-string array."""
    length = stop - start
    width = int(length.max())
    if length.min() < 1 or width > MAX_TOKEN:
        raise _Malformed
    matrix = np.zeros((len(start), width), np.uint8)
    for place in range(width):
        inside = place < length
        matrix[:, place] = np.where(inside, buffer[np.minimum(start + place, len(buffer) - 1)], 0)
        if np.any(inside & (matrix[:, place] == 0)):
            raise _Malformed
    return matrix.view(f"S{width}").ravel()


def _to_seconds(values: np.ndarray) -> np.ndarray:
    try:
        return logged_seconds("time", values)
    except ValueError:
        raise _Malformed from None


def _to_number(
    buffer: np.ndarray, start: np.ndarray, stop: np.ndarray, largest: float
) -> np.ndarray:
    tokens = _to_tokens(buffer, start, stop)
    if not np.all(_IS_NUMBER_BYTE[tokens.view(np.uint8)]):
        raise _Malformed
    try:
        values = tokens.astype(np.float64)
    except ValueError:
        raise _Malformed from None
    if not np.all(np.abs(values) <= largest):
        raise _Malformed
    return values


def _name_line(
    lines: bytes, path: Path, separator: bytes, columns: dict[str, Kind], first_line: int
) -> InputError:
    """Find the first malformed line and say what is wrong with it."""
    printable = "," if separator == _UNIT else separator.decode().replace("\t", "<tab>")
    for number, line in enumerate(lines[:-1].split(b"\n"), first_line):
        fields = line.split(separator)
        if len(fields) != len(columns):
            expected = printable.join(columns)
            return bad_input(path, line=number, expected=expected, found=shown(line))
        for field, (name, kind) in zip(fields, columns.items()):
            if not _is_well_formed(field, kind):
                expected = f"{_FIELD[kind][1]} as {name}"
                found = shown(field) + _unit(field, kind)
                return bad_input(path, line=number, expected=expected, found=found)
    expected = f"lines of {printable.join(columns)}"
    return bad_input(path, expected=expected, found="control characters")


def _is_well_formed(field: bytes, kind: Kind) -> bool:
    if not _FIELD[kind][0].fullmatch(field):
        return False
    if kind == "iso":
        try:
            return len(logged_seconds("time", [field.decode("utf-8", "replace")])) == 1
        except ValueError:
            return False
    if kind in _LARGEST:
        return abs(float(field)) <= _LARGEST[kind]
    try:
        field.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _unit(field: bytes, kind: Kind) -> str:
    """Say which unit a number that is no unix seconds looks like."""
    if "seconds" not in kind or not _FIELD[kind][0].fullmatch(field):
        return ""
    return ", which looks like " + next(unit for least, unit in _UNITS if abs(float(field)) > least)


def _name_int_line(lines: bytes, path: Path) -> InputError:
    for number, line in enumerate(lines[:-1].split(b"\n"), 1):
        if not _INT_LINE.fullmatch(line):
            expected = "whole numbers separated by blanks"
            return bad_input(path, line=number, expected=expected, found=shown(line))
    return bad_input(path, expected="lines of whole numbers", found="control characters")
