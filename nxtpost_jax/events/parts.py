"""A column of an item's description as numbers, one dataclass per kind of column.

Each is fitted on items of training only, is kept as plain arrays, and reads new items without a
refit: `part(column)` gives float32[m, width] or a `ContentSet`, zeros where an item has no value or
none that training knew. Shape suffixes: m items, C width, S vectors a set.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from nxtpost_jax.events.content import ContentSet
from nxtpost_jax.events.item_tables import Column
from nxtpost_jax.events.kinds import Encoder, Kind
from nxtpost_jax.events.texts import TextEncoder
from nxtpost_jax.events.values import as_array, as_number, as_tags, as_text

MOST_TAGS = 500  # of a column; the most frequent
MOST_IN_SET = 32  # vectors of an item; the first
_STEPS = 257  # quantiles of numbers that are kept
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """Encode texts.

    Attributes:
      encoder: `TextEncoder`, or the caller's; None where a loaded one was not given again.
      width: C.
    """

    encoder: Encoder | None
    width: int
    kind: Kind = "text"

    @classmethod
    def fit(cls, column: Column, taught: Sequence[int], encoder: Encoder | None) -> Texts:
        """Fit a `TextEncoder` where the caller has no encoder."""
        texts = _texts(column)
        if encoder is None:
            fitted = TextEncoder.fit([texts[row] for row in taught])
            return cls(fitted, fitted.width)
        one = next((text for text in texts if text), None)
        if one is None:
            raise ValueError(f"content: expected a text in {column.name!r}, found none")
        return cls(encoder, _encoded(encoder, [one], column.name).shape[1])

    def __call__(self, column: Column) -> np.ndarray:
        """Encode: float32[m, C].

        Raises:
          ValueError: a value is no text, or the encoder is missing or gives something else.
        """
        texts = _texts(column)
        rows = [row for row, text in enumerate(texts) if text]
        vectors = np.zeros((len(texts), self.width), np.float32)
        if not rows:
            return vectors
        if self.encoder is None:
            raise ValueError(
                f"parts: expected the encoder of {column.name!r}, given again at load, found none"
            )
        given = [texts[row] for row in rows]
        vectors[rows] = _encoded(self.encoder, given, column.name, width=self.width)
        return vectors

    def stored(self) -> Arrays:
        """Give plain arrays; of a caller's encoder the width alone."""
        own = self.encoder.stored() if isinstance(self.encoder, TextEncoder) else {}
        return own | {"width": np.array(self.width)}


@dataclasses.dataclass(frozen=True, eq=False)
class Tags:
    """Mark the tags or the category of an item; all of one item have length 1 together.

    Attributes:
      words: those of training items, sorted.
      kind: "tags" splits "a|b|c".
    """

    words: tuple[str, ...]
    kind: Kind = "tags"

    @classmethod
    def fit(cls, column: Column, taught: Sequence[int], kind: Kind) -> Tags:
        """List the tags, the most frequent where there are more than `MOST_TAGS`."""
        counted = collections.Counter(
            itertools.chain.from_iterable(set(as_tags(column, row, kind)) for row in taught)
        )
        most = sorted(counted, key=lambda word: (-counted[word], word))[:MOST_TAGS]
        return cls(tuple(sorted(most)), kind)

    @property
    def width(self) -> int:
        """Count the tags."""
        return len(self.words)

    def __call__(self, column: Column) -> np.ndarray:
        """Encode: float32[m, C]; unknown tags count as none.

        Raises:
          ValueError: a value is no tag.
        """
        places = {word: place for place, word in enumerate(self.words)}
        marks = np.zeros((len(column.values), self.width), np.float32)
        for row in range(len(marks)):
            known = [places[word] for word in as_tags(column, row, self.kind) if word in places]
            marks[row, known] = 1
        return marks / np.sqrt(np.maximum(marks.sum(axis=1, keepdims=True), 1))

    @property
    def unsaid(self) -> np.ndarray:
        """Give what is taken of an item that has other features: no tag."""
        return np.zeros(self.width, np.float32)

    def stored(self) -> Arrays:
        """Give plain arrays."""
        parts = [word.encode("utf-8", "surrogatepass") for word in self.words]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return {"bytes": np.frombuffer(b"".join(parts), np.uint8), "ends": ends}


@dataclasses.dataclass(frozen=True, eq=False)
class Numbers:
    """Place numbers among those of training items, and mark that there is one.

    The first feature is the number's rank, from -1 to 1 with mean 0, so a heavy tail or another
    unit changes nothing; the second is 1. Both are 0 where there is no number.

    Attributes:
      points: float64[p], rising quantiles of training items.
      ranks: float64[p], theirs.
      always: whether each training item had a number.
    """

    points: np.ndarray
    ranks: np.ndarray
    always: bool
    kind: Kind = "number"
    width: int = 2

    @classmethod
    def fit(cls, column: Column, taught: Sequence[int]) -> Numbers:
        """Learn the quantiles; equal numbers have their middle rank."""
        known = np.array([as_number(column, row) for row in taught], np.float64)
        steps = np.linspace(0, 1, _STEPS)
        there = ~np.isnan(known)
        values = np.quantile(known[there], steps, method="inverted_cdf")
        points, places = np.unique(values, return_inverse=True)
        ranks = np.bincount(places, 2 * steps - 1) / np.bincount(places)
        return cls(points, ranks, bool(there.all()))

    def __call__(self, column: Column) -> np.ndarray:
        """Encode: float32[m, 2].

        Raises:
          ValueError: a value is no finite number.
        """
        values = np.array([as_number(column, row) for row in range(len(column.values))], np.float64)
        there = ~np.isnan(values)
        ranks = np.interp(np.where(there, values, 0), self.points, self.ranks)
        return np.stack([np.where(there, ranks, 0), there], axis=1).astype(np.float32)

    def stored(self) -> Arrays:
        """Give plain arrays."""
        return {name: np.asarray(getattr(self, name)) for name in ("points", "ranks", "always")}

    @property
    def unsaid(self) -> np.ndarray:
        """Give what is taken of an item that has other features: the middle, or that it has none.

        Where each training item had a number, the model has not learned what it is to have none.
        """
        return np.array([0, self.always], np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Vectors:
    """Take vectors as they are; a row of NaN is none.

    Attributes:
      width: C.
    """

    width: int
    kind: Kind = "vector"

    @classmethod
    def fit(cls, column: Column) -> Vectors:
        """Read the width."""
        row = next(row for row, value in enumerate(column.values) if value is not None)
        return cls(as_array(column, row, ndim=1).shape[0])

    def __call__(self, column: Column) -> np.ndarray:
        """Read: float32[m, C].

        Raises:
          ValueError: a value is no vector of C finite numbers.
        """
        vectors = np.zeros((len(column.values), self.width), np.float32)
        for row, value in enumerate(column.values):
            if value is not None:
                vectors[row] = as_array(column, row, ndim=1, width=self.width)
        return vectors

    def stored(self) -> Arrays:
        """Give plain arrays."""
        return {"width": np.array(self.width)}


@dataclasses.dataclass(frozen=True, eq=False)
class Sets:
    """Take vectors of an item in any order, such as those of its images.

    Attributes:
      size: S, the most of an item at the fit; of later items with more the first S count.
      width: C.
    """

    size: int
    width: int
    kind: Kind = "set"

    @classmethod
    def fit(cls, column: Column) -> Sets:
        """Read the sizes."""
        sets = [
            as_array(column, row, ndim=2)
            for row, value in enumerate(column.values)
            if value is not None
        ]
        return cls(min(MOST_IN_SET, max(map(len, sets))), sets[0].shape[1])

    def __call__(self, column: Column) -> ContentSet:
        """Read: f32[m, S, C] and its mask.

        Raises:
          ValueError: a value is no list of vectors of C finite numbers.
        """
        vectors = np.zeros((len(column.values), self.size, self.width), np.float32)
        mask = np.zeros(vectors.shape[:2], bool)
        for row, value in enumerate(column.values):
            if value is not None:
                some = as_array(column, row, ndim=2, width=self.width)[: self.size]
                vectors[row, : len(some)] = some
                mask[row, : len(some)] = some.any(axis=1)
        return ContentSet(vectors, mask)

    def stored(self) -> Arrays:
        """Give plain arrays."""
        return {"size": np.array(self.size), "width": np.array(self.width)}


Part = Texts | Tags | Numbers | Vectors | Sets


def fit(
    column: Column, kind: Kind, *, taught: Sequence[int], encoder: Encoder | None = None
) -> Part:
    """Fit what reads a column in which there is some value.

    Args:
      column: of all items that are described.
      kind: what it is.
      taught: rows of training items.
      encoder: the caller's, of texts.

    Raises:
      ValueError: a value is of another kind.
    """
    if kind == "text":
        return Texts.fit(column, taught, encoder)
    if kind == "tags" or kind == "category":
        return Tags.fit(column, taught, kind)
    if kind == "number":
        return Numbers.fit(column, taught)
    return Vectors.fit(column) if kind == "vector" else Sets.fit(column)


def restore(kind: Kind, arrays: Mapping[str, np.ndarray], *, encoder: Encoder | None) -> Part:
    """Read what a part's `stored` gave; `encoder` is the caller's of before."""
    if kind == "text":
        own = "words" in arrays
        width = int(arrays["width"])
        return Texts(TextEncoder.restore(arrays) if own else encoder, width)
    if kind == "tags" or kind == "category":
        data, ends = arrays["bytes"].tobytes(), arrays["ends"].tolist()
        words = [data[a:b].decode("utf-8", "surrogatepass") for a, b in zip([0, *ends], ends)]
        return Tags(tuple(words), kind)
    if kind == "number":
        return Numbers(arrays["points"], arrays["ranks"], bool(arrays["always"]))
    if kind == "vector":
        return Vectors(int(arrays["width"]))
    return Sets(int(arrays["size"]), int(arrays["width"]))


def _texts(column: Column) -> list[str]:
    return [as_text(column, row) for row in range(len(column.values))]


def _encoded(
    encoder: Encoder, texts: list[str], name: str, *, width: int | None = None
) -> np.ndarray:
    given = encoder(texts)
    try:
        vectors: np.ndarray = np.asarray(given, np.float32)
    except (TypeError, ValueError):
        vectors = np.zeros(0, np.float32)
    whole = vectors.ndim == 2 and len(vectors) == len(texts) and vectors.size > 0
    if not whole or width not in (None, vectors.shape[-1]) or not np.isfinite(vectors).all():
        found = f"{type(given).__name__}{list(vectors.shape)}"
        raise ValueError(
            f"parts: expected finite vectors {[len(texts), width or 'C']} of the encoder of "
            f"{name!r}, found {found}"
        )
    return vectors
