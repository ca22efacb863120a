"""One value of a column as a text, tags, a number or an array; what cannot be one is named."""

from __future__ import annotations

from typing import Any

import numpy as np

from nxtpost_jax.events.item_tables import Column
from nxtpost_jax.events.kinds import Kind, is_number, pieces


def as_text(column: Column, row: int) -> str:
    """Read a text, "" where there is none; a list of texts or a number becomes one.

    Raises:
      ValueError: it is something else.
    """
    value = column.values[row]
    if value is None or isinstance(value, str):
        return value if value and value.strip() else ""
    words = _words(value)
    if words is None:
        raise column.error(row, "a text")
    return " ".join(words)


def as_tags(column: Column, row: int, kind: Kind) -> list[str]:
    """Read a list of tags, or one; "tags" splits "a|b|c".

    Raises:
      ValueError: it is something else.
    """
    value = column.values[row]
    if value is None:
        return []
    if isinstance(value, str):
        return pieces(value) if kind == "tags" else [value.strip()]
    words = _words(value)
    if words is None:
        raise column.error(row, "a tag or a list of tags")
    return words


def as_number(column: Column, row: int) -> float:
    """Read a number, of a text too; NaN where there is none.

    Raises:
      ValueError: it is none, or infinite.
    """
    value = column.values[row]
    if value is None:
        return np.nan
    try:
        found = float(value) if isinstance(value, str) or is_number(value) else np.inf
    except (ValueError, OverflowError):
        found = np.inf
    if np.isinf(found):
        raise column.error(row, "a finite number")
    return found


def as_array(column: Column, row: int, *, ndim: int, width: int | None = None) -> np.ndarray:
    """Read a vector float32[C], zeros for NaN alone, or with two dimensions a set [s, C].

    Raises:
      ValueError: it is none, of another width, or a number is not finite.
    """
    what = "a vector" if ndim == 1 else "vectors"
    expected = f"{what} of finite numbers of {f'width {width}' if width else 'one width'}"
    try:
        vectors = np.asarray(column.values[row])
    except ValueError:  # of unequal lengths
        raise column.error(row, expected) from None
    if vectors.ndim != ndim or vectors.dtype.kind not in "fiub" or not vectors.size:
        raise column.error(row, expected)
    if width not in (None, vectors.shape[-1]):
        tags = f" (parts={{{column.name!r}: 'tags'}} reads lists of tags)" if ndim == 1 else ""
        raise column.error(row, expected, advice=tags)
    if ndim == 1 and vectors.dtype.kind == "f" and np.isnan(vectors).all():
        return np.zeros(len(vectors), np.float32)
    with np.errstate(over="ignore"):
        vectors = vectors.astype(np.float32)
    if not np.isfinite(vectors).all():
        raise column.error(row, expected)
    return vectors


def _words(value: Any) -> list[str] | None:
    """Read a number, or a list of texts and numbers; None where it is neither."""
    values = np.asarray(value).tolist() if hasattr(value, "__array__") else value
    values = values if isinstance(values, (list, tuple, set, frozenset)) else [values]
    if not all(isinstance(each, str) or each is None or is_number(each) for each in values):
        return None
    words = [_word(each) for each in values if each is not None]
    return [word for word in words if word]


def _word(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()  # as columns with gaps have them
    return str(int(value) if whole else value).strip()
