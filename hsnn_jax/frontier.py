"""Cost against recall: a search at several budgets beside the exact answer."""

from typing import NamedTuple

import numpy as np

from hsnn_jax.index import Index
from hsnn_jax.search import brute_force, search


class FrontierPoint(NamedTuple):
    """One budget."""

    budget: int
    recall: float  # mean share of the exact top k that was found
    items_scored: float  # mean a user
    share_scored: float  # of all items
    flops: float  # mean a user
    exact_flops: float  # of brute force, a user


def recall(ids, wanted) -> float:
    """Return the mean share of each row's wanted ids that were found.

    Args:
      ids: int [B, k] found; -1 counts for nothing.
      wanted: int [B, w]; -1 is padding. Rows without a wanted id are left out.

    Raises:
      ValueError: no row has a wanted id.
    """
    ids, wanted = np.asarray(ids), np.asarray(wanted)
    real = wanted >= 0
    rows = real.any(axis=1)
    if not rows.any():
        raise ValueError("wanted must hold at least one id that is not -1")
    hits = (wanted[:, :, None] == ids[:, None, :]).any(axis=2) & real
    return float((hits.sum(axis=1)[rows] / real.sum(axis=1)[rows]).mean())


def frontier(
    scorer, params, index: Index, items, users, k: int, *, budgets, **options
) -> list[FrontierPoint]:
    """Measure recall of the exact top k at equal items scored and equal FLOPs.

    Args:
      scorer, params, index, users, k: see `search`.
      items: [n, ...] features (not tiles: the exact search reads them too).
      budgets: numbers of items, each at least one list's capacity.
      **options: keyword arguments of `search`; exclude and allowed go to both searches.
    """
    both = {name: options[name] for name in ("exclude", "allowed") if name in options}
    exact = brute_force(scorer, params, items, users, k, **both)
    points = []
    for budget in budgets:
        found = search(scorer, params, index, items, users, k, budget=budget, **options)
        scored = float(found.items_scored.mean())
        points.append(
            FrontierPoint(
                budget=int(budget),
                recall=recall(found.ids, exact.ids),
                items_scored=scored,
                share_scored=scored / index.positions.shape[0],
                flops=float(found.flops.mean()),
                exact_flops=float(exact.flops.mean()),
            )
        )
    return points
