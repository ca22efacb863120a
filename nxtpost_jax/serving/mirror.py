"""A search index of the caller's, kept equal to the catalogue that is served.

It is asked where it holds exactly the items of a request's moment. While it changes, and where each
query is allowed items of its own, the catalogue is searched item by item instead: an answer is
always of one state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from nxtpost_jax.arrays import Array
from nxtpost_jax.serving.catalogue import Catalogue

_RESERVE = 64  # items, or an eighth of them where that is more, that an index shall have room for


class Index(Protocol):
    """Say what a `Recommender` asks of an index; `hsnn_jax.Retriever` is one.

    Ids are whole numbers from 0. A call that raises leaves the index as it was. Searches come from
    any thread, one change at a time. An index may also have `warm_up(*, k, batch, exclude)`, which
    compiles what searches of these sizes run: lists of numbers of items, numbers of queries and
    widths of exclusions. `Recommender.warm_up` calls it.
    """

    def build_index(self, vectors: Any, /, *, item_ids: Any, reserve: int) -> Any:
        """Hold these items alone, f32[n, D] and int32[n], with room for `reserve` more."""

    def add(self, vectors: Any, ids: Any, /) -> None:
        """Hold more items, f32[m, D] and int32[m], as many as there is room for."""

    def remove(self, ids: Any, /) -> None:
        """Drop items, int32[m]; there is room for as many then."""

    def search(self, vectors: Any, k: int, /, *, exclude: Any, allowed: Any) -> Iterable[Any]:
        """Find the items of the highest inner product, the best first.

        Args:
          vectors: f32[B, D].
          k: how many.
          exclude: int32[B, E], ids that a query must not get, padded by -1; or None.
          allowed: int32[m], the only ones that may be found; or None.

        Returns:
          What unpacks as ids int[B, k], -1 where fewer are found, and scores f32[B, k], -inf there.
        """
        ...


class Mirror:
    """Pass changes on to an index, and know whose items it holds."""

    def __init__(self, index: Index):
        self._index = index
        self._holds: Catalogue | None = None  # None while it changes
        self._room = 0
        self._unknown: set[int] = set()  # items of zeros, which no search may find

    def build(self, catalogue: Catalogue) -> None:
        """Hold the items of a catalogue alone.

        Raises: what the index does.
        """
        ids = catalogue.sorted_ids
        vectors = np.asarray(catalogue.vectors)[catalogue.find(ids)]
        known = vectors.any(axis=1)
        reserve = max(_RESERVE, len(ids) // 8)
        with self._changing(catalogue):
            self._index.build_index(vectors[known], item_ids=ids[known], reserve=reserve)
            self._room, self._unknown = reserve, set(ids[~known].tolist())

    def add(self, vectors: np.ndarray, ids: np.ndarray, *, into: Catalogue) -> None:
        """Hold more items; `into` is the catalogue that has them.

        Raises: what the index does.
        """
        known = vectors.any(axis=1)
        if known.sum() > self._room:
            self.build(into)
            return
        with self._changing(into):
            if known.any():
                self._index.add(vectors[known], ids[known])
            self._room -= int(known.sum())
            self._unknown |= set(ids[~known].tolist())

    def remove(self, ids: np.ndarray, *, left: Catalogue) -> None:
        """Drop items; `left` is the catalogue without them.

        Raises: what the index does.
        """
        known = np.array([item not in self._unknown for item in ids.tolist()], bool)
        with self._changing(left):
            if known.any():
                self._index.remove(ids[known])
            self._room += int(known.sum())
            self._unknown -= set(ids.tolist())

    def search(
        self,
        vectors_BxD: Array,
        k: int,
        *,
        catalogue: Catalogue,
        exclude: np.ndarray | None,
        allowed: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Find the k best items by the index: ids and scores [B, k]; see `Index.search`.

        Returns:
          None where the index does not hold the catalogue, or not until the end.
        """
        if self._holds is not catalogue:
            return None
        vectors = np.asarray(vectors_BxD)
        ids, scores = self._index.search(vectors, k, exclude=exclude, allowed=allowed)
        if self._holds is not catalogue:
            return None
        return np.asarray(ids).astype(np.int32), np.asarray(scores, np.float32)

    def warm_up(self, *, k: Sequence[int], batch: Sequence[int], exclude: Sequence[int]) -> None:
        """Have an index that can be warmed up compile its searches.

        Args:
          k: numbers of items.
          batch: numbers of queries.
          exclude: widths of what queries must not get.
        """
        warm_up = getattr(self._index, "warm_up", None)
        if warm_up is not None and self._holds is not None:
            warm_up(k=k, batch=batch, exclude=exclude)

    @contextlib.contextmanager
    def _changing(self, after: Catalogue) -> Iterator[None]:
        before, self._holds = self._holds, None
        try:
            yield
        except BaseException:
            self._holds = before
            raise
        self._holds = after
