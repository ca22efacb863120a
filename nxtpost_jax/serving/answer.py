"""What a request gives back: the items of each query, the best first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from nxtpost_jax.events.sequences import PAD


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Answer:
    """Hold the best items of B queries; unpacks as `ids, scores = answer`.

    Where fewer than k items are left, the rest of a row of ids is PAD (-1): an index that numpy
    takes for the last entry. `pairs` leaves it out.

    Attributes:
      ids: int32[B, k], the best first, PAD after the last item.
      scores: float32[B, k], cosines, or inner products where the model compares by them; -inf
        at PAD.
    """

    ids: np.ndarray
    scores: np.ndarray

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.ids, self.scores))

    def __repr__(self) -> str:
        rows, k = self.ids.shape
        return f"Answer({rows} queries, {k} items per query)"

    def pairs(self, row: int) -> list[tuple[int, float]]:
        """List the items of one query with their scores, the best first, without PAD.

        Raises:
          ValueError: there is no such row.
        """
        if not 0 <= row < len(self.ids):
            raise ValueError(f"row: expected 0 to {len(self.ids) - 1}, found {row}")
        pairs = zip(self.ids[row].tolist(), self.scores[row].tolist())
        return [(item, score) for item, score in pairs if item != PAD]
