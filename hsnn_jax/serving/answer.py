"""What a search of the retriever returns."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from hsnn_jax.descent.descend import SearchResult
from hsnn_jax.lists.ids import blank, free
from hsnn_jax.serving.side import ids_at
from hsnn_jax.serving.state import Nested


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """The items found for B users, best first, and what they cost; numpy arrays.

    Unpacks as two: `ids, scores = retriever.search(users, 10)`.

    Attributes:
      ids: int64 [B, k], the caller's ids; -1 where fewer than k items were found. Of ids that are
        no integers, object [B, k]; None there.
      scores: float32 [B, k]; -inf there.
      items_scored: int32 [B], by the cheap scorer where one goes first.
      unseen: int32 [B], items that the user may get and that were not scored, or with a cheap
        scorer first not in its pool: at most so many of the k best are missing. 0 means that the
        answer is exact.
      flops: float32 [B], scorer operations, see `descent.descend.SearchResult`.
      nodes_scored: int32 [B], nodes of all levels whose score was computed.
      recall: float32 [B], an estimate of the share of the min(k, allowed) exact results of the same
        scorer, ties by score, that is here; 1 where `unseen` is 0, NaN where no calibration tells
        it, see `calibration.calibrate`.
    """

    ids: np.ndarray
    scores: np.ndarray
    items_scored: np.ndarray
    unseen: np.ndarray
    flops: np.ndarray
    nodes_scored: np.ndarray
    recall: np.ndarray

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.ids, self.scores))

    def pairs(self, user: int) -> list[tuple[Any, float]]:
        """Return the (id, score) of what was found for one user, without padding.

        Args:
          user: row of the request.
        """
        found = ~free(self.ids[user])
        return list(zip(self.ids[user][found].tolist(), self.scores[user][found].tolist()))


def answer_of(found: SearchResult, now: Nested, *, k: int) -> Answer:
    """Return what was found, in the caller's ids and padded to k.

    Args:
      found: on the host, of at most k rows each.
      now: the state in which it was found.
      k: items that were asked for.
    """
    padding: Any = blank(now.items.ids)
    found_ids = ids_at(now.side, np.asarray(found.ids), ids=now.items.ids)
    scores = np.asarray(found.scores)
    if k > found.ids.shape[1]:  # beyond the rows
        missing = (0, 0), (0, k - found.ids.shape[1])
        found_ids = np.pad(found_ids, missing, constant_values=padding)
        scores = np.pad(scores, missing, constant_values=-np.inf)
    return Answer(
        ids=found_ids,
        scores=scores,
        items_scored=np.asarray(found.items_scored),
        unseen=np.asarray(found.unseen),
        flops=np.asarray(found.flops),
        nodes_scored=np.asarray(found.nodes_scored),
        recall=np.asarray(found.recall),
    )
