"""Which kind a column of an item's description is: told by its values, or by the caller.

| values | kind |
| --- | --- |
| lists of texts | tags |
| texts of pieces between bars, as MovieLens has genres, that recur | tags |
| texts that recur: 200 at most, each twice on average | category |
| other texts | text |
| numbers and bools | number |
| lists of numbers, of one length | vector |
| lists of such lists, or matrices of one width | set |

Anything else, dates and nested dicts among them, is refused by name, and so is a column of several
kinds: nothing is guessed. The caller may name the kind, or leave a column out.
"""

from __future__ import annotations

import decimal
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.events.item_tables import Column

Kind = Literal["text", "tags", "category", "number", "vector", "set"]
Encoder = Callable[[list[str]], ArrayLike]  # n texts -> float[n, C]
# What the caller says of columns: a kind, an encoder of texts, None to leave one out, or that it
# has the items' ids.
Told = Mapping[str, Kind | Literal["id"] | Encoder | None]
MOST_CATEGORIES = 200  # texts of more are texts
_RECURS = 2  # times that a category is there on average
_EMPTY = "empty"


def checked_parts(parts: Told | None) -> Told:
    """Read what the caller says of columns.

    Raises:
      ValueError: it is no dict of kinds, encoders and None.
    """
    if not isinstance(parts, Mapping | None):
        found = type(parts).__name__
        raise ValueError(f"parts: expected a kind or an encoder by column, found a {found}")
    words = (*get_args(Kind), "id")
    for name, told in (parts or {}).items():
        if told is not None and not callable(told) and told not in words:
            raise ValueError(
                f"parts: expected {', '.join(words)}, a function of texts or None for {name!r}, "
                f"found {told!r:.60}"
            )
    ids = [name for name, told in (parts or {}).items() if told == "id"]
    if len(ids) > 1:
        raise ValueError(f"parts: expected one column of ids, found {' and '.join(ids)}")
    return dict(parts or {})


def told_id(parts: Told) -> str | None:
    """Name the column that the caller says has the ids."""
    return next((name for name, told in parts.items() if told == "id"), None)


def kind_of(column: Column) -> Kind | None:
    """Tell the kind of a column by its values; None where there is no value.

    Raises:
      ValueError: a value is of no kind, or there are several.
    """
    advice = f" (parts={{{column.name!r}: None}} leaves it out)"
    first: dict[str, int] = {}
    for row, value in enumerate(column.values):
        if value is None:
            continue
        kind = _kind_of_value(value)
        if kind is None:
            raise column.error(row, "texts, tags, numbers or vectors", advice=advice)
        first.setdefault(kind, row)
    first.pop(_EMPTY, None)
    if len(first) > 1:
        one, other = list(first.values())[:2]
        raise column.error(
            other, f"one kind of value, such as {column.values[one]!r:.30}", advice=advice
        )
    kind: Any = next(iter(first), None)
    return _kind_of_texts(column.values) if kind == "text" else kind


def pieces(text: str) -> list[str]:
    """Split "a|b|c"."""
    return [piece for piece in map(str.strip, text.split("|")) if piece]


def _kind_of_value(value: Any) -> str | None:
    if isinstance(value, str):
        return "text"
    if is_number(value):
        return "number"
    if hasattr(value, "__array__"):
        return _kind_of_array(np.asarray(value))
    if isinstance(value, (list, tuple, set, frozenset)):
        return _kind_of_list(value)
    return None


def is_number(value: Any) -> bool:
    """Tell numbers and bools, of numpy too."""
    return isinstance(value, (numbers.Real, decimal.Decimal, np.bool_))


def _kind_of_array(array: np.ndarray) -> str | None:
    if not array.size:
        return _EMPTY
    if array.dtype.kind in "fiub":
        return {1: "vector", 2: "set"}.get(array.ndim)
    return _kind_of_list(array.tolist()) if array.ndim == 1 and array.dtype.kind in "UTO" else None


def _kind_of_list(values: Iterable) -> str | None:
    kinds = {_kind_of_value(value) for value in values if value is not None}
    if not kinds:
        return _EMPTY
    if len(kinds) > 1:
        return None
    ordered = isinstance(values, Sequence)  # a set of numbers is no vector
    inner = {"text": "tags"} | ({"number": "vector", "vector": "set"} if ordered else {})
    return inner.get(kinds.pop() or "")


def _kind_of_texts(values: list) -> Kind:
    texts = [value.strip() for value in values if value is not None]
    if any("|" in text for text in texts) and _recur([p for text in texts for p in pieces(text)]):
        return "tags"
    return "category" if _recur(texts) else "text"


def _recur(texts: list[str]) -> bool:
    distinct = len(set(texts))
    return distinct <= MOST_CATEGORIES and _RECURS * distinct <= len(texts)
