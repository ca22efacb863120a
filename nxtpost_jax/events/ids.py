"""The caller's own ids, and the numbers from 0 that stand for them inside.

`OwnIds` numbers whole numbers of 64 bits, texts or any hashable values in the order of their first
coming; `Numbered` is for callers whose ids are such numbers already. Neither ever forgets an id or
numbers it anew, so a number means the same in every catalogue, history and request.

-1, an empty text, None and NaN are no ids: they stand for none, in tables and in answers.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.events.columns import whole_numbers
from nxtpost_jax.events.sequences import PAD

Kind = Literal["numbers", "texts", "others"]
_BLANK: dict[Kind, Any] = {"numbers": -1, "texts": "", "others": None}
_WHOLE = 2.0**53  # floats below are exact


class Numbered:
    """Let items be numbers from 0: every id is its own code."""

    def codes(self, name: str, values: ArrayLike | Sequence) -> np.ndarray:
        """Read ids as int32[m].

        Raises:
          ValueError: they are no whole numbers from 0 to 2^31 - 1 in one dimension.
        """
        return whole_numbers(name, values)

    def take(self, codes: np.ndarray) -> np.ndarray:
        """Name codes, PAD at PAD."""
        return codes


class OwnIds:
    """Number the caller's ids of one kind; ids are only ever appended.

    Attributes:
      kind: "numbers" int64, "texts", or "others" for any hashable values; None while empty.
    """

    def __init__(self) -> None:
        self.kind: Kind | None = None
        self._values: list = []
        self._codes: dict = {}
        self._turn = threading.Lock()  # readers need none: what is there never changes

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"OwnIds({len(self):,} {self.kind or 'ids'})"

    def codes(self, name: str, values: ArrayLike | Sequence) -> np.ndarray:
        """Find the codes of ids: int32[m], PAD where an id is unknown.

        Raises:
          ValueError: the values are not one-dimensional, or can be no ids.
        """
        kind, flat = flat_ids(name, values)
        if kind != self.kind and "others" not in (kind, self.kind):
            return np.full(len(flat), PAD, np.int32)
        codes = map(self._codes.get, flat.tolist(), itertools.repeat(PAD))
        return np.fromiter(codes, np.int32, len(flat))

    def add(self, name: str, values: ArrayLike | Sequence) -> np.ndarray:
        """Find the codes of ids and number those that are new: int32[m].

        Raises:
          ValueError: an id is missing, or of another kind than those before; none is added then.
        """
        kind, flat = flat_ids(name, values)
        _check_none_missing(name, kind, flat)
        if not len(flat):
            return np.zeros(0, np.int32)
        found = flat.tolist()
        with self._turn:
            if self.kind not in (None, "others", kind):
                raise ValueError(
                    f"{name}: expected {self.kind} as the other ids, found {found[0]!r:.60}"
                )
            self.kind = self.kind or kind
            for value in dict.fromkeys(found):  # each once, in the order of coming
                self._number(value)
        return np.fromiter(map(self._codes.__getitem__, found), np.int32, len(found))

    def take(self, codes: np.ndarray) -> np.ndarray:
        """Name codes: int64, text or objects of the same shape; -1, "" or None at PAD."""
        codes, blank = np.asarray(codes), _BLANK[self.kind or "others"]
        values = [blank if code == PAD else self._values[code] for code in codes.ravel().tolist()]
        if self.kind == "numbers":
            named = np.array(values, np.int64)
        elif self.kind == "texts" and not any(value.endswith("\0") for value in values):
            named = np.array(values, str)
        else:
            named = _objects(values)
        return named.reshape(codes.shape)

    def stored(self) -> dict[str, np.ndarray]:
        """Give plain arrays that `restore` reads.

        Raises:
          ValueError: an id is none that an array can hold: a whole number, a text or a UUID.
        """
        if self.kind == "numbers":
            return {"numbers": np.array(self._values, np.int64)}
        parts = [_as_bytes(value) for value in self._values]
        return {
            "bytes": np.frombuffer(b"".join(parts), np.uint8),
            "ends": np.cumsum([len(part) for part in parts], dtype=np.int64),
        }

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray]) -> OwnIds:
        """Read what `stored` gave."""
        ids = cls()
        if "numbers" in arrays:
            ids.add("ids", arrays["numbers"])
        else:
            data, ends = arrays["bytes"].tobytes(), arrays["ends"].tolist()
            values = [_of_bytes(data[a:b]) for a, b in zip([0, *ends], ends)]
            ids.add("ids", _objects(values))
        return ids

    def _number(self, value: Hashable) -> None:
        if value not in self._codes:
            self._values.append(value)  # first: whoever finds a code finds its id
            self._codes[value] = len(self._values) - 1


Ids = Numbered | OwnIds


def flat_ids(name: str, values: ArrayLike | Sequence) -> tuple[Kind, np.ndarray]:
    """Read one-dimensional ids without changing any: their kind, and int64[m] or object[m].

    Raises:
      ValueError: they are not one-dimensional, or floats, bools or moments.
    """
    # numpy would make texts of a list of mixed values
    array = _objects(values) if isinstance(values, (list, tuple)) else np.asarray(values)
    if array.dtype == object and set(map(type, array.flat)) in ({float}, {bool}):
        array = np.array(array.tolist())
    if array.ndim != 1:
        raise ValueError(f"{name}: expected a list of ids, found shape {list(array.shape)}")
    if array.dtype.kind == "f" and _all_whole(array):
        array = array.astype(np.int64)
    if array.dtype.kind in "fbmMcV" and array.size:
        shown = next((v for v in array.tolist() if not _is_whole(v)), array[0].item())
        raise ValueError(f"{name}: expected ids (whole numbers or texts), found {shown!r:.60}")
    if array.dtype.kind in "iu" and (array.dtype != np.uint64 or not (array >> 63).any()):
        return "numbers", array.astype(np.int64)
    array = array.astype(object)
    return _kind_of_objects(name, array)


def _check_none_missing(name: str, kind: Kind, flat: np.ndarray) -> None:
    """Refuse what stands for no id.

    Raises:
      ValueError: there is some; the row is named.
    """
    if kind == "others":
        rows = [row for row, value in enumerate(flat) if is_missing(value)]
    else:
        rows = np.flatnonzero(flat == _BLANK[kind])
    if len(rows):
        row = rows[0]
        shown = flat[row].item() if isinstance(flat[row], np.generic) else flat[row]
        raise ValueError(f"{name}: expected an id in every row, found {shown!r} in row {row}")


def is_missing(value: Any) -> bool:
    """Tell what stands for no id: None, NaN, an empty text, -1."""
    if value is None or isinstance(value, (str, bytes)):
        return not value
    return isinstance(value, (int, float, np.number)) and (value == PAD or value != value)


def _kind_of_objects(name: str, array: np.ndarray) -> tuple[Kind, np.ndarray]:
    types = set(map(type, array))
    if types and all(issubclass(t, str) for t in types):
        return "texts", array
    if all(issubclass(t, (int, np.integer)) and t is not bool for t in types):
        try:
            return "numbers", np.array(array.tolist(), np.int64)
        except OverflowError:
            pass
    for value in array:
        try:
            hash(value)
        except TypeError:
            found = f"a {type(value).__name__}"
            raise ValueError(f"{name}: expected ids that can be hashed, found {found}") from None
    return "others", array


def _objects(values: Sequence) -> np.ndarray:
    """Make an array of values as they are: tuples too, which numpy would take for rows."""
    if any(issubclass(each, np.generic) for each in set(map(type, values))):
        values = [value.item() if isinstance(value, np.generic) else value for value in values]
    return np.fromiter(values, object, len(values))


def _all_whole(array: np.ndarray) -> bool:
    return bool((np.abs(array) < _WHOLE).all() and (array == np.floor(array)).all())


def _is_whole(value) -> bool:
    return isinstance(value, float) and value.is_integer() and abs(value) < _WHOLE


def _as_bytes(value) -> bytes:
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, uuid.UUID):
        return b"u" + value.bytes
    if isinstance(value, int) and not isinstance(value, bool):
        return b"i" + str(value).encode()
    raise ValueError(
        f"ids: expected whole numbers, texts or UUIDs, which a folder can hold, found {value!r:.60}"
    )


def _of_bytes(data: bytes):
    kind, rest = data[:1], data[1:]
    if kind == b"u":
        return uuid.UUID(bytes=rest)
    return int(rest) if kind == b"i" else rest.decode("utf-8", "surrogatepass")
