"""Texts of items as content vectors: TF-IDF, then a truncated SVD, both fitted once and kept.

A fitted encoder is three plain arrays. It encodes a new text in one call, without the texts it was
fitted on; a text without any word of theirs gets zeros, which content takes for none.

Source: Deerwester et al., Indexing by latent semantic analysis, 1990; the SVD is that of Halko et
al. 2011 as scikit-learn does it, number for number. Shape suffixes: n texts, V words, D features.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse

Sparse = Any  # a scipy.sparse.csr_array, of which stubs say that its parts may be None
MAX_WORDS = 50_000  # most frequent words and word pairs that are kept
_TOKEN = re.compile(r"\b\w\w+\b")
_OVERSAMPLES, _POWER_STEPS = 10, 4
_SHORT = 1e-6  # a vector below has no direction


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TextEncoder:
    """Encode texts as vectors of length 1; `fit` makes one.

    Attributes:
      words: the V words and word pairs that count, sorted.
      idf: float32[V], their inverse document frequencies.
      axes_VxD: float32[V, D], the right singular vectors; zero beyond the rank of the fitted texts.
    """

    words: tuple[str, ...]
    idf: np.ndarray
    axes_VxD: np.ndarray

    def __repr__(self) -> str:
        return f"TextEncoder({len(self.words):,} words, width {self.width})"

    @property
    def width(self) -> int:
        """Count the features, D."""
        return self.axes_VxD.shape[1]

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.words)}

    @classmethod
    def fit(cls, texts: Sequence[str], *, dim: int = 128, seed: int = 0) -> TextEncoder:
        """Learn words, their weights and axes of some texts; those without a word do not count.

        Args:
          texts: of training items only, or the evaluation knows what it should not.
          dim: D.
          seed: of the SVD's random start.

        Raises:
          ValueError: dim is below 1.
        """
        if dim < 1:
            raise ValueError(f"dim: expected at least 1, found {dim}")
        counts = [_count(text) for text in texts if text.strip()]
        words = tuple(sorted(set().union(*counts)))
        if not words:
            return cls((), np.zeros(0, np.float32), np.zeros((0, dim), np.float32))
        counted_nxV = _matrix(counts, {word: place for place, word in enumerate(words)})
        if len(words) > MAX_WORDS:
            most = np.argsort(-np.asarray(counted_nxV.sum(axis=0)).ravel())[:MAX_WORDS]
            kept = np.sort(most)
            words, counted_nxV = tuple(words[place] for place in kept), counted_nxV[:, kept]
        frequency = np.bincount(counted_nxV.indices, minlength=len(words)) + 1
        idf = np.log((len(counts) + 1) / frequency.astype(np.float32)).astype(np.float32) + 1
        rows_nxV = _weighed(counted_nxV, idf)
        return cls(words, idf, _axes(rows_nxV, dim, seed))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts: float32[n, D], rows of length 1, or zero where no word is known."""
        rows_nxV = _weighed(_matrix(map(_count, texts), self._places), self.idf)
        vectors = np.asarray(rows_nxV @ self.axes_VxD, np.float32)
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.where(length > _SHORT, vectors / np.maximum(length, _SHORT), np.float32(0))

    def stored(self) -> dict[str, np.ndarray]:
        """Give plain arrays that `restore` reads."""
        words = "\n".join(self.words).encode()
        return {"words": np.frombuffer(words, np.uint8), "idf": self.idf, "axes": self.axes_VxD}

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray]) -> TextEncoder:
        """Read what `stored` gave."""
        words = arrays["words"].tobytes().decode()
        return cls(tuple(words.split("\n")) if words else (), arrays["idf"], arrays["axes"])


def _count(text: str) -> collections.Counter[str]:
    """Count words of two letters or more, and pairs of neighbours."""
    words = _TOKEN.findall(text.lower())
    return collections.Counter([*words, *map(" ".join, itertools.pairwise(words))])


def _matrix(counts: Iterable[Mapping[str, int]], places: Mapping[str, int]) -> Sparse:
    """Lay out counts of known words: f32[n, V], sparse, columns sorted."""
    columns, values, ends = [], [], [0]
    for count in counts:
        known = sorted((places[word], times) for word, times in count.items() if word in places)
        columns += [place for place, _ in known]
        values += [times for _, times in known]
        ends.append(len(columns))
    shape = len(ends) - 1, len(places)
    parts = np.array(values, np.float32), np.array(columns, np.int32), np.array(ends, np.int32)
    return scipy.sparse.csr_array(parts, shape=shape)


def _weighed(counted_nxV: Sparse, idf: np.ndarray) -> Sparse:
    """Weigh counts by (1 + log count) idf, and give each row length 1."""
    rows = counted_nxV.copy()
    rows.data = (np.log(rows.data) + 1) * idf[rows.indices]
    owners = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    length = np.sqrt(np.bincount(owners, rows.data**2, minlength=rows.shape[0]))
    rows.data = (rows.data / length[owners]).astype(np.float32)
    return rows


def _axes(rows_nxV: Sparse, dim: int, seed: int) -> np.ndarray:
    """Find the first right singular vectors: f32[V, D], zero beyond the rank."""
    rank = min(dim, *rows_nxV.shape)
    axes = np.zeros((rows_nxV.shape[1], dim), np.float32)
    if rank == rows_nxV.shape[1]:  # as many axes as words: the words themselves are the axes
        axes[:, :rank] = np.eye(rank)
    else:
        axes[:, :rank] = _right_singular(rows_nxV, rank, seed)
    return axes


def _right_singular(rows_nxV: Sparse, rank: int, seed: int) -> np.ndarray:
    wide = rows_nxV.shape[0] < rows_nxV.shape[1]
    tall = rows_nxV.T.tocsr() if wide else rows_nxV  # more rows than columns
    size = tall.shape[1], rank + _OVERSAMPLES
    basis = np.random.RandomState(seed).normal(size=size).astype(np.float32)
    linalg: Any = scipy.linalg  # how many arrays these return depends on their arguments
    for _ in range(_POWER_STEPS):
        basis, _ = linalg.lu(tall @ basis, permute_l=True)
        basis, _ = linalg.lu(tall.T @ basis, permute_l=True)
    basis, _ = linalg.qr(tall @ basis, mode="economic")
    left, _, right = linalg.svd(basis.T @ tall, full_matrices=False)
    vectors = (basis @ left)[:, :rank] if wide else right[:rank].T
    largest = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(rank)]
    return vectors * np.sign(largest)
