"""Searches dealt over the processes of a run: each answers its share, and all have all answers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.harness.processes import alone, deal_of_queries
from hsnn_jax.cost_curves import Found

Search = Callable[..., Found]


def over_processes(search: Search) -> Search:
    """Make a searcher's `search` answer one share of the requests in each process of a run.

    Shares are runs of rows. A row's answer is that of one process up to the rounding of another
    batch; costs are means over all rows. Every process calls it with the same requests.

    Args:
      search: (self, requests, k, *, budget) to `Found`, of requests with `exclude` and `rows`.
    """

    @functools.wraps(search)
    def dealt(self: Any, requests: Any, k: int, *, budget: int) -> Found:
        deal, rows = deal_of_queries(), len(requests.exclude)
        if deal is None or rows < deal.count:
            return search(self, requests, k, budget=budget)
        first, end = (rows * (deal.index + i) // deal.count for i in (0, 1))
        with alone():
            own = search(self, requests.rows(slice(first, end)), k, budget=budget)
        ids = np.full((-(-rows // deal.count), k), -1, np.int32)  # equal shapes: gathered whole
        ids[: end - first] = own.ids
        costs = np.array([end - first, own.items_scored, own.flops])
        # As bytes: jax would gather float32.
        costs = np.asarray(deal.gather(costs.view(np.uint8))).view(np.float64)
        sizes, scored, flops = costs.T
        shares = zip(np.asarray(deal.gather(ids)), sizes.astype(int))
        answers = np.concatenate([share[:size] for share, size in shares])
        return Found(answers, *(float(np.average(x, weights=sizes)) for x in (scored, flops)))

    return dealt
