"""Cost against recall: any searcher at several budgets beside the exact answer.

`frontier` drives `search` on one index. `measure` drives anything with a `search` method and keeps
the recall of every user, so that searchers compare at equal cost, paired by user (`at_equal`,
`paired_difference`).
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import jax
import numpy as np
from jax.typing import ArrayLike

from hsnn_jax.descent.descend import SearchResult
from hsnn_jax.descent.search import brute_force, search
from hsnn_jax.lists.index import Index

Cost = Literal["items_scored", "flops"]


class FrontierPoint(NamedTuple):
    """One budget."""

    budget: int
    recall: float  # mean share of the exact top k that was found
    items_scored: float  # mean a user
    share_scored: float  # of all items
    flops: float  # mean a user
    exact_flops: float  # of brute force, a user


class Found(NamedTuple):
    """What a searcher returns, and what it cost."""

    ids: Any  # int [B, k]; -1 where fewer than k items were found
    items_scored: float  # mean a user
    flops: float  # mean a user


class Searcher(Protocol):
    """Anything that finds items for requests.

    A searcher whose compiled program serves every budget may say so by an attribute
    `traced_budget = True`: `measure` then warms it once, not at every budget.
    """

    name: str

    def build(self) -> None:
        """Make ready what a search needs."""
        ...

    def search(self, requests: Any, k: int, *, budget: int) -> Found:
        """Find k items for each request while scoring about `budget` items."""
        ...


class Measured(NamedTuple):
    """One searcher at one budget."""

    budget: int
    items_scored: float  # mean a user
    flops: float  # mean a user
    queries_per_second: float  # all requests in one warm call
    recall: np.ndarray  # float64 [B]: share of the exact top k that was found
    truth: np.ndarray | None  # float64 [B]: share of the held-out items; NaN for a user without


def recall_by_user(ids: ArrayLike, wanted: ArrayLike) -> np.ndarray:
    """Return the share of each row's wanted ids that were found, float64 [B].

    Args:
      ids: int [B, k] found; -1 counts for nothing.
      wanted: int [B, w], distinct in a row; -1 is padding. A row without a wanted id is NaN.
    """
    ids, wanted = np.asarray(ids), np.asarray(wanted)
    shares = np.full(len(ids), np.nan)
    for row, (found, own) in enumerate(zip(ids, wanted, strict=True)):
        own = own[own >= 0]
        if own.size:
            shares[row] = np.isin(own, found).mean()
    return shares


def recall(ids: ArrayLike, wanted: ArrayLike) -> float:
    """Return the mean share of each row's wanted ids that were found.

    Args:
      ids: int [B, k] found; -1 counts for nothing.
      wanted: int [B, w], distinct in a row; -1 is padding. Rows without a wanted id are left out.

    Raises:
      ValueError: no row has a wanted id.
    """
    shares = recall_by_user(ids, wanted)
    if np.isnan(shares).all():
        raise ValueError("wanted: expected at least one id, found -1 alone")
    return float(np.nanmean(shares))


def frontier(
    scorer: Callable,
    params: Any,
    *,
    index: Index,
    items: Any,
    users: Any,
    k: int,
    budgets: Sequence,
    **options: Any,
) -> list[FrontierPoint]:
    """Measure recall of the exact top k at equal items scored and equal FLOPs.

    Args:
      scorer, params, index, users, k: see `search`.
      items: [n, ...] features (not tiles: the exact search reads them too).
      budgets: numbers of items.
      **options: keyword arguments of `search`; exclude and allowed go to both searches.
    """
    both = {name: options[name] for name in ("exclude", "allowed") if name in options}
    exact = brute_force(scorer, params, items=items, users=users, k=k, **both)
    find = functools.partial(
        search, scorer, params, index=index, items=items, users=users, k=k, **options
    )
    return curve(
        lambda budget: find(budget=budget),
        exact,
        budgets=budgets,
        num_items=index.positions.shape[0],
    )


def curve(
    find: Callable[[Any], SearchResult],
    exact: SearchResult,
    *,
    budgets: Sequence,
    num_items: int,
) -> list[FrontierPoint]:
    """Hold answers at several budgets against the exact one.

    Args:
      find: find(budget) is the answer.
      exact: of the same users and k.
      budgets: each a number, or a tuple, one an index, whose last one is that of the items.
      num_items: that could be scored.
    """
    points = []
    for budget in budgets:
        found = find(budget)
        scored = float(found.items_scored.mean())
        points.append(
            FrontierPoint(
                budget=int(budget[-1] if isinstance(budget, tuple) else budget),
                recall=recall(found.ids, exact.ids),
                items_scored=scored,
                share_scored=scored / max(num_items, 1),
                flops=float(found.flops.mean()),
                exact_flops=float(exact.flops.mean()),
            )
        )
    return points


def measure(
    searcher: Searcher,
    requests: Any,
    *,
    k: int,
    budgets: Sequence[int],
    exact: ArrayLike,
    truth: ArrayLike | None = None,
    warm: bool = False,
) -> list[Measured]:
    """Search all requests at every budget; the calls that are timed are warm.

    Args:
      searcher: built.
      requests: whatever it searches, B of them.
      k: items to find.
      budgets: numbers of items.
      exact: int [B, k], the exact answer of the scorer that the searcher uses.
      truth: optional int [B, w], held-out items, -1 for padding.
      warm: whether it has searched these requests at the first budget before.
    """
    points = []
    for budget in budgets:
        if not warm:
            searcher.search(requests, k, budget=budget)
        warm = getattr(searcher, "traced_budget", False)
        start = time.perf_counter()
        found = searcher.search(requests, k, budget=budget)
        ids = np.asarray(jax.block_until_ready(found.ids))
        seconds = time.perf_counter() - start
        points.append(
            Measured(
                budget=int(budget),
                items_scored=float(found.items_scored),
                flops=float(found.flops),
                queries_per_second=len(ids) / seconds,
                recall=recall_by_user(ids, exact),
                truth=None if truth is None else recall_by_user(ids, truth),
            )
        )
    return points


def at_equal(
    points: Sequence[Measured], *, cost: Cost, value: float, of: Literal["recall", "truth"]
) -> np.ndarray | None:
    """Interpolate the recall of every user at a cost, linearly in its logarithm.

    Args:
      points: of one searcher.
      cost: what is equal between searchers.
      value: of that cost, a user.
      of: which recall.

    Returns:
      float64 [B]; None where the cost is below the cheapest point or above the dearest one.
    """
    points = sorted(points, key=lambda point: getattr(point, cost))
    costs = np.log([getattr(point, cost) for point in points])
    x = np.log(value)
    if not costs[0] - 1e-9 <= x <= costs[-1] + 1e-9:
        return None
    right = min(int(np.searchsorted(costs, x)), len(points) - 1)
    left = max(right - 1, 0)
    gap = costs[right] - costs[left]
    weight = np.clip((x - costs[left]) / gap, 0.0, 1.0) if gap > 0 else 1.0
    low, high = getattr(points[left], of), getattr(points[right], of)
    return (1 - weight) * low + weight * high


def paired_difference(
    one: ArrayLike, other: ArrayLike, *, seed: int = 0, resamples: int = 1000
) -> tuple[float, float]:
    """Return the mean of one - other over users and its bootstrap standard error.

    Args:
      one, other: float [B] of the same users; those that are NaN in either are left out. `other`
        may be 0.0, which gives the mean of one itself.
      seed: of the resampling of users.
      resamples: how many.
    """
    difference = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    difference = difference[~np.isnan(difference)]
    if difference.size < 2:
        return float(difference.mean()) if difference.size else float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = [
        difference[rng.integers(0, difference.size, difference.size)].mean()
        for _ in range(resamples)
    ]
    return float(difference.mean()), float(np.std(means, ddof=1))
