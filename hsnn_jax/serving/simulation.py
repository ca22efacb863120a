"""Searches of a calibration, simulated on exact scores: nothing is compiled for them.

A search visits nodes by their score while their lists fit the budget, so that all scores of a user
tell what it finds at any budget and through any filter.
"""

from typing import Any, NamedTuple

import numpy as np

from hsnn_jax.descent.recall import Evidence, Tail, above, affordable

MOST = 100  # items that a simulated search asks for at most
_ASKED = (5, 10, 10, 20, 50, MOST)
_FILTERS = (0.0, 0.7, -0.7)  # correlation of what is allowed with the scores that it goes by
_BUDGETS = 3  # of each user and filter


class Scored(NamedTuple):
    """The exact scores of U users."""

    items: np.ndarray  # float32 [U, n]
    nodes: np.ndarray  # float32 [U, K]
    node_of: np.ndarray  # int [n], the node that lists each item
    counts: np.ndarray  # int [K]
    unit: np.ndarray  # float [U, 1], see `recall.user_spread`


class Searches(NamedTuple):
    """What E simulated searches knew and found."""

    known: Evidence  # arrays of [E, ...]
    k: np.ndarray  # int [E]
    recall: np.ndarray  # float [E], in truth
    planned: np.ndarray  # float [P, T], recall in truth of P searches at T tolerances


def simulate(scored: Scored, tail: Tail, *, rng: np.random.Generator) -> Searches:
    """Search for every user, without a filter and through drawn ones, at drawn budgets.

    Filters allow from a third down to a ten-thousandth of the items: at random, or such as the user
    scores high, or low, or another one high. Budgets are from a list up to all items, k from 5 to
    100.

    Args:
      scored: see `Scored`.
      tail: `shape`, `spread` and `tolerances` are read.
      rng: of the draws.
    """
    rows, planned = [], []
    for user in range(len(scored.items)):
        theme = scored.items[rng.integers(len(scored.items))]
        drawn = [(None, theme), *((each, scored.items[user]) for each in _FILTERS), (0.8, theme)]
        for correlation, scores in drawn:
            allowed = _allowed(scores, correlation, rng)
            k = min(int(rng.choice(_ASKED)), len(scored.node_of))
            one = _One(scored, user, allowed, k)
            planned.append(one.planned(tail))
            rows += [one.searched(tail, budget) for budget in _budgets(scored, rng)]
    known = Evidence(*(np.asarray(each) for each in zip(*(row[0] for row in rows))))
    k, recall = (np.asarray(each) for each in list(zip(*rows))[1:])
    return Searches(known, k, recall, np.asarray(planned))


def _allowed(scores, correlation, rng):
    """Return the places of the items that a drawn filter allows, int [m]; all without one."""
    if correlation is None:
        return np.arange(len(scores))
    share = np.exp(rng.uniform(np.log(1e-4), np.log(0.3)))
    size = max(round(share * len(scores)), 1)
    if not correlation:
        return rng.choice(len(scores), size, replace=False)
    noise = rng.standard_normal(len(scores)) * np.std(scores)
    like = correlation * scores + np.sqrt(1 - correlation**2) * noise
    return np.argpartition(-like, size - 1)[:size]


def _budgets(scored, rng):
    least, most = np.log(max(scored.counts.max(), 1)), np.log(len(scored.node_of))
    return np.exp(rng.uniform(least, max(most, least), _BUDGETS)).astype(np.int64)


class _One:
    """One user's scores through one filter, ready for any budget."""

    def __init__(self, scored: Scored, user: int, allowed: np.ndarray, k: int) -> None:
        self.scores, self.k = scored.nodes[user][None, :], k
        self.unit = scored.unit[user][None, :]
        self.counts, self.items = scored.counts, scored.items[user][allowed]
        node = scored.node_of[allowed]
        self.left = np.bincount(node, minlength=len(scored.counts))
        order = np.argsort(-self.scores[0], kind="stable")
        order = order[self.left[order] > 0]
        self.spent = np.cumsum(scored.counts[order])
        self.rank = np.full(len(scored.counts), len(order))
        self.rank[order] = np.arange(len(order))
        self.visited_at = self.rank[node]
        self.best = min(k, len(self.items))
        exact = np.argpartition(-self.items, self.best - 1)[: self.best]
        least = self.items[exact].min()
        self.exact_at = np.sort(self.visited_at[self.items > least])
        self.ties_at = np.sort(self.visited_at[self.items == least])

    def nodes_at(self, budget: Any) -> Any:
        """Return how many nodes are visited."""
        return np.maximum(np.searchsorted(self.spent, budget, side="right"), 1)

    def recall_at(self, nodes: Any) -> Any:
        """Return the share of the exact answer in the first nodes, ties by score."""
        ties = np.searchsorted(self.ties_at, nodes)
        ties = np.minimum(ties, self.best - len(self.exact_at))
        return (np.searchsorted(self.exact_at, nodes) + ties) / self.best

    def planned(self, tail: Tail) -> np.ndarray:
        """Return the recall where each tolerance chooses the budget, float [T]."""
        given: dict[str, Any] = {"left": self.left[None, :], "counts": self.counts, "xp": np}
        given |= {"unit": self.unit}
        budgets = affordable(tail, tail.tolerances, k=self.k, scores=self.scores, **given)
        return self.recall_at(self.nodes_at(budgets))

    def searched(self, tail: Tail, budget: int) -> tuple[Evidence, int, float]:
        """Return what a search at a budget knows, k, and its recall in truth."""
        nodes = self.nodes_at(budget)
        found = self.items[self.visited_at < nodes]
        number = min(self.k, found.size)
        best = -np.sort(np.partition(-found, number - 1)[:number])
        visited = (self.rank < nodes) & (self.left > 0)
        spread = self.unit * tail.spread
        given: dict[str, Any] = {"scores": self.scores, "spread": spread, "left": self.left}
        of_node, rate = (each[0] for each in above(tail, best[-1:], **given, xp=np))
        missed = of_node[~visited].sum()
        slope = (of_node * rate)[~visited].sum() / max(missed, 1e-9)
        gaps = np.zeros(MOST)
        gaps[:number] = best - best[-1]
        known = Evidence(
            missed=missed,
            slope=min(slope, 0.0),
            seen=of_node[visited].sum(),
            found=number,
            allowed=self.items.size,
            unseen=self.items.size - found.size,
            gaps=gaps,
        )
        return known, self.k, float(self.recall_at(nodes))
