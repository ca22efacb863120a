"""The caller's columns as whole numbers or as seconds, or one line that says why not.

Nothing is cast before it is known to fit: an id beyond 32 bits or a time in milliseconds is
refused by name, never wrapped or taken for something else.
"""

from __future__ import annotations

import datetime
import numbers
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

Moment = float | datetime.datetime | datetime.date | np.datetime64
HIGHEST = 2**31 - 1  # ids are int32
_EPOCH = np.datetime64(0, "s")
# The year 5138. A moment since 1973 in a finer unit is later than that, read as seconds.
_LATEST = 1e11
_PER_SECOND = ((1e17, 1e9), (1e14, 1e6), (_LATEST, 1e3))
_UNITS = ((1e17, "nanoseconds"), (1e14, "microseconds"), (_LATEST, "milliseconds"))


def whole_numbers(
    name: str,
    values: ArrayLike,
    *,
    lowest: int = 0,
    highest: int = HIGHEST,
    dtype: type = np.int32,
    ndim: int = 1,
) -> np.ndarray:
    """Read integers, or floats that are whole, as `dtype`.

    Raises:
      ValueError: there is something else, a number below `lowest` or above `highest`, or another
        number of dimensions.
    """
    values = as_array(name, values)
    if values.ndim != ndim:
        dimensions = "one dimension" if ndim == 1 else f"{ndim} dimensions"
        raise ValueError(f"{name}: expected {dimensions}, found shape {list(values.shape)}")
    if not values.size:
        return np.zeros(values.shape, dtype)
    highest_text = "2^31 - 1" if highest == HIGHEST else str(highest)
    expected = f"whole numbers from {lowest} to {highest_text}"
    if values.dtype.kind == "O":
        _check_whole(name, values, expected)
    if values.dtype.kind not in "iufO":
        hint = " (np.unique(ids, return_inverse=True) makes them of any ids)"
        found = values.flat[0].item()
        raise ValueError(f"{name}: expected {expected}{hint}, found {found!r:.60}")
    fits = (values >= lowest) & (values <= highest)  # False at NaN
    if values.dtype.kind == "f":
        fits &= values == np.floor(values)
    if not fits.all():
        found = values[~fits.astype(bool)][0]
        raise ValueError(f"{name}: expected {expected}, found {found}")
    return np.ascontiguousarray(values, dtype)


def seconds(name: str, values: ArrayLike | Sequence[Moment]) -> np.ndarray:
    """Read moments as float64 seconds.

    Args:
      name: the argument's.
      values: numbers of seconds; datetime64 or timedelta64 of any unit; or objects of `datetime`
        and `date`, or texts of ISO 8601 such as "2023-01-31 08:26:00+01:00". What has no zone is
        in UTC.

    Raises:
      ValueError: they are none of these, not one-dimensional, one is missing (NaT), or a number
        is beyond 1e11: since 1970 that is later than the year 5138, and the rule by which
        milliseconds, microseconds and nanoseconds are told from seconds.
    """
    values = as_array(name, values)
    if values.ndim != 1:
        raise ValueError(f"{name}: expected one dimension, found shape {list(values.shape)}")
    if values.dtype.kind in "UT":
        texts, places = np.unique(values.astype(object), return_inverse=True)
        return np.array([_seconds_of_text(name, text) for text in texts], np.float64)[places]
    if values.dtype.kind == "O":
        values = np.array([_seconds_of_object(name, value) for value in values], np.float64)
    elif values.dtype.kind in "mM":
        if np.isnat(values).any():
            raise ValueError(f"{name}: expected moments, found NaT")
        start = _EPOCH if values.dtype.kind == "M" else np.timedelta64(0, "s")
        return (values - start) / np.timedelta64(1, "s")
    if values.size and values.dtype.kind not in "iuf":
        raise ValueError(
            f"{name}: expected seconds since 1970 or datetimes, found {values.flat[0].item()!r:.60}"
        )
    values = np.ascontiguousarray(values, np.float64)
    late = values[np.isfinite(values) & (np.abs(values) > _LATEST)]
    if len(late):
        unit = next(unit for least, unit in _UNITS if abs(late[0]) > least)
        raise ValueError(
            f"{name}: expected seconds since 1970, found {late[0]:.15g}, which looks like {unit}"
        )
    return values


def logged_seconds(name: str, values: ArrayLike | Sequence[Moment]) -> np.ndarray:
    """Read a log's column of moments as float64 seconds, of milliseconds and finer units too.

    A unit is recognised where every number of the column speaks for it, whatever lies beyond 1e11
    as seconds; a column that mixes units is refused as by `seconds`.

    Raises:
      ValueError: as in `seconds`.
    """
    array = as_array(name, values)
    if array.dtype.kind in "iuf" and array.size:
        low, high = (float(np.abs(edge)) for edge in (array.min(), array.max()))
        for least, per_second in _PER_SECOND:
            if min(low, high) > least and high < np.inf:  # the finest unit first
                return seconds(name, array / per_second)
    return seconds(name, array)


def event_weights(name: str, values: ArrayLike) -> np.ndarray:
    """Read how much events count as float32.

    Raises:
      ValueError: they are no finite numbers of at least 0 in one dimension.
    """
    values = as_array(name, values)
    if values.ndim != 1:
        raise ValueError(f"{name}: expected one dimension, found shape {list(values.shape)}")
    if values.size and values.dtype.kind not in "iufb":
        found = values.flat[0]
        raise ValueError(f"{name}: expected numbers of at least 0, found {found!r:.60}")
    weights = np.ascontiguousarray(values, np.float32)
    broken = values[~(np.isfinite(weights) & (weights >= 0))]
    if len(broken):
        raise ValueError(f"{name}: expected finite numbers of at least 0, found {broken[0]}")
    return weights


def as_array(name: str, values: ArrayLike | Sequence) -> np.ndarray:
    """Make an array.

    Raises:
      ValueError: there are lists of different lengths.
    """
    try:
        return np.asarray(values)
    except ValueError:
        raise ValueError(f"{name}: expected one list, found lists of different lengths") from None


def _check_whole(name: str, values: np.ndarray, expected: str) -> None:
    """Refuse objects that are no whole numbers; Python's integers then compare at any size."""
    for value in values.flat:
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        whole = isinstance(value, numbers.Integral) or (is_number and float(value).is_integer())
        if not is_number or not whole:
            raise ValueError(f"{name}: expected {expected}, found {value!r:.60}")


def _seconds_of_text(name: str, text: str) -> float:
    """Read ISO 8601 with dashes: without them a date is not told from a number."""
    try:
        if "-" in text[1:]:
            return _seconds_of_object(name, datetime.datetime.fromisoformat(text.strip()))
    except ValueError:
        pass
    raise ValueError(
        f"{name}: expected seconds since 1970 or datetimes such as 2023-01-31 08:26:00, "
        f"found {text!r:.60}"
    )


def _seconds_of_object(name: str, value) -> float:
    if isinstance(value, datetime.datetime):
        zoned = value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)
        return zoned.timestamp()
    if isinstance(value, datetime.date):
        midnight = datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.UTC)
        return midnight.timestamp()
    if isinstance(value, np.datetime64):
        return float((value - _EPOCH) / np.timedelta64(1, "s"))
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(
                f"{name}: expected seconds since 1970, found a number beyond float64"
            ) from None
    if isinstance(value, str):
        return _seconds_of_text(name, value)
    raise ValueError(f"{name}: expected seconds since 1970 or datetimes, found {value!r:.60}")
