"""A regime that was fixed before any run: filters that leave a hundredth of the items.

What is left are fewer items than a search may score: any index scans them, and so does the largest
model by itself. A table of these says so in figures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.retrieval.rivals import Asked
from experiments.retrieval.untrained_rivals import KINDS
from experiments.studies.tables.joint import HSNN, TOGETHER

SHARE = 0.01  # of the items that a filter leaves
AMONG_FEW = 5  # items that are looked for: all that are left could be fewer than usual
FILTERED = "filtered"


def filtered(asked: Sequence[Asked], *, num_items: int) -> list[Asked]:
    """Leave every user a drawn hundredth of the items, and the one that is taken next.

    Args:
      asked: requests; what they exclude is not left.
      num_items: that can be found.
    """
    rng = np.random.default_rng(17)
    found = []
    for part in asked:
        rows = len(part.requests.exclude)
        left = rng.random((rows, num_items)) < SHARE
        # Of rows that only pad, the last user's.
        wanted = np.pad(part.wanted, (0, rows - len(part.wanted)), mode="edge")
        at, column = np.nonzero(part.requests.exclude >= 0)
        left[at, part.requests.exclude[at, column]] = False
        left[np.arange(rows), wanted] = True
        few = part.requests._replace(exclude=_listed(~left), allowed=_listed(left))
        found.append(part._replace(requests=few))
    return found


def mean_left(few: Sequence[Asked]) -> float:
    """Return how many items filters leave a user on average."""
    left = ((np.asarray(part.requests.allowed) >= 0, len(part.wanted)) for part in few)
    counts = [mask.sum(axis=1)[:users] for mask, users in left]
    return float(np.mean(np.concatenate(counts)))


def stands_filters(name: str) -> bool:
    """Tell which contenders are measured: HSNN trained together, and what is not trained."""
    return name in KINDS or (name.startswith(HSNN) and name.endswith(TOGETHER))


def _listed(mask: np.ndarray) -> np.ndarray:
    """Write a mask [B, n] as places, int32 [B, most], -1 after."""
    counts = mask.sum(axis=1)
    places = np.argsort(~mask, axis=1, kind="stable")[:, : max(1, int(counts.max(initial=0)))]
    return np.where(np.arange(places.shape[1]) < counts[:, None], places, -1).astype(np.int32)
