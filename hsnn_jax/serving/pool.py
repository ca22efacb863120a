"""A cheap scorer that goes first: which of the listed items the retriever's own scores."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from hsnn_jax.descent.descend import Level
from hsnn_jax.lists.index import Index, Tiles
from hsnn_jax.monn.scorers import dot


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Candidates: the items that a cheap scorer likes best in the visited lists.

    The cheap scorer reads vectors, those that the index lists items by: the caller's or, with a
    model, those of its towers (`monn.user_vectors`, `monn.item_vectors`; of several models the
    last one's). What is not in the pool is not scored by the retriever's own scorer.

    Attributes:
      size: items a user, or as many as a search finds where that is more: k, and 16 at least.
      scorer: see `search`; the inner product by default.
      params: its parameters.
      nodes: whether it scores the nodes too, by their vectors. Otherwise the retriever's scorer
        does, as without a pool.

    Raises:
      ValueError: the size is no integer >= 1.
    """

    size: int
    scorer: Callable = dot
    params: Any = None
    nodes: bool = False

    def __post_init__(self):
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 1:
            raise ValueError(f"size: expected an integer >= 1, found {self.size!r}")

    def level(self, users: jax.Array, read: Index | Tiles) -> Level:
        """Return the level by which nodes or items are scored.

        Args:
          users: float [B, d].
          read: an index, for its nodes; or the vectors of items.
        """
        features = read.nodes if isinstance(read, Index) else read
        return Level(self.scorer, self.params, users, features)

    def width(self, most: int) -> int:
        """Return how many items are chosen where so many are to be found."""
        return max(self.size, most)
