"""What a request gives back: the items of each query, the best first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from nxtpost_jax.events import log


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Answer:
    """Hold the best items of B queries; unpacks as `ids, scores = answer`.

    Where fewer than k items are left, the rest of a row of ids stands for none: -1, which as an
    index numpy takes for the last entry, "" among texts, None among others. `pairs` and `frame`
    leave it out.

    Attributes:
      ids: [B, k], the caller's ids, the best first: int32 numbers from 0, or what a table had,
        int64, text or objects.
      scores: float32[B, k], cosines, or inner products where the model compares by them, plus what
        trends raise them by; -inf where there is no item.
      users: [B], the users that a table of histories has, in the order of their first events; None
        where histories have no names.
      skipped: int64[B], unknown items that were left out of each history.
    """

    ids: np.ndarray
    scores: np.ndarray
    users: np.ndarray | None = None
    skipped: np.ndarray | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.ids, self.scores))

    def __repr__(self) -> str:
        rows, k = self.ids.shape
        return f"Answer({rows} queries, {k} items per query)"

    def pairs(self, row: int) -> list[tuple[Any, float]]:
        """List the items of one query with their scores, the best first, no padding.

        Raises:
          ValueError: there is no such row.
        """
        if not 0 <= row < len(self.ids):
            raise ValueError(f"row: expected 0 to {len(self.ids) - 1}, found {row}")
        pairs = zip(self.ids[row].tolist(), self.scores[row].tolist())
        return [(item, score) for item, score in pairs if score > -np.inf]

    def columns(self) -> dict[str, np.ndarray]:
        """List all pairs in long columns: user, or the number of the query, item, rank, score."""
        rows, places = np.nonzero(self.scores > -np.inf)
        who = {"query": rows} if self.users is None else {"user": self.users[rows]}
        found = self.ids[rows, places], places + 1, self.scores[rows, places]
        return who | dict(zip(("item", "rank", "score"), found))

    def frame(self, library: Literal["pandas", "polars", "pyarrow"] = "pandas") -> Any:
        """Make a DataFrame of `columns`, a row per recommended item; needs the extra `frames`.

        Raises:
          ModuleNotFoundError: narwhals or the library is not installed.
        """
        narwhals = log.narwhals()
        columns = {name: values.tolist() for name, values in self.columns().items()}
        return narwhals.from_dict(columns, backend=library).to_native()
