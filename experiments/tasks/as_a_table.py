"""A log as its owner has it: a table of events but the last ones, and who is then asked what."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from experiments.data.content import content_vectors
from experiments.data.interactions import Interactions
from experiments.tasks import next_item
from experiments.tasks.next_item import Problem, pose, sequences_of
from nxtpost_jax import Metrics, Queries, Recommender, Split
from nxtpost_jax.evaluation.baselines import item_counts
from nxtpost_jax.evaluation.metrics import inverse_propensity, metrics_of_ranks
from nxtpost_jax.events.filters import keep_events

DEBIAS_POWER = 0.5
BASELINE_HISTORY = 200  # events that a baseline is given
MISS = np.iinfo(np.int32).max  # a rank beyond any cut-off


@dataclasses.dataclass(frozen=True, eq=False)
class Tabled:
    """What a user of the package has, and what it is then asked.

    Attributes:
      table: columns `user`, `item` and, where there are times, `time`, in the log's own ids.
      texts: {item id: text} of the table's items; None where the data has none.
      problem: its training part is the table; baselines are fitted to it.
      asked: the test queries that anyone can answer: the target and an event of the history are in
        the table.
      item_ids: the log's own id of each item.
    """

    table: dict[str, np.ndarray]
    texts: dict[Any, str] | None
    problem: Problem
    asked: np.ndarray
    item_ids: np.ndarray

    @property
    def queries(self) -> Queries:
        """The test queries that are asked."""
        return self.problem.split.test.select(self.asked)

    @property
    def unanswerable(self) -> int:
        """How many test queries no model can answer; each counts as a miss."""
        return int((~self.asked).sum())


def tabled(interactions: Interactions, *, content_dim: int = 128) -> Tabled:
    """Keep from the table what `next_item.pose` tests by: last events, or whole groups.

    Raises:
      InputError: as in `pose`.
    """
    problem = pose(interactions, content_dim=0)
    test = problem.split.test
    asked_users = np.isin(np.arange(interactions.n_users), test.users)
    kept = ~asked_users[interactions.users]
    if interactions.groups is None:
        is_last = np.append(np.diff(interactions.users) > 0, True)
        kept |= ~is_last
    events = _events(interactions, kept)
    known = np.zeros(interactions.n_items, bool)
    known[events.items] = True
    vectors, has_content = content_vectors(interactions, known, dim=content_dim)
    content = vectors if has_content.any() else None
    split = Split(sequences_of(events), problem.split.validation, _known_only(test, known))
    problem = dataclasses.replace(
        problem, split=split, content=content, candidates=np.flatnonzero(known).astype(np.int32)
    )
    table = {
        "user": interactions.user_ids[events.users],
        "item": interactions.item_ids[events.items],
    }
    if events.timestamps is not None:
        table["time"] = events.timestamps
    texts = None
    if interactions.item_texts is not None:
        named = zip(interactions.item_ids.tolist(), interactions.item_texts)
        texts = {name: text for (name, text), is_known in zip(named, known) if is_known}
    asked = known[test.targets] & (split.test.histories.lengths > 0)
    return Tabled(table, texts, problem, asked, interactions.item_ids)


def _events(interactions: Interactions, kept: np.ndarray) -> Interactions:
    """Take some events, bool[n_events]."""
    columns = ("users", "items", "timestamps", "actions", "weights")
    values = {name: getattr(interactions, name) for name in columns}
    taken = {name: None if value is None else value[kept] for name, value in values.items()}
    return dataclasses.replace(interactions, **taken)


def _known_only(queries: Queries, known: np.ndarray) -> Queries:
    """Leave out of histories what is not in the table: neither a model nor a baseline knows it."""
    histories = queries.histories
    kept = keep_events(histories, known[histories.items])
    return dataclasses.replace(queries, histories=kept)


def score_recommender(recommender: Recommender, tabled: Tabled) -> Metrics:
    """Rank what was kept from the table by a recommender that was fitted to it."""
    queries = tabled.queries
    metrics = recommender.evaluate(
        [tabled.item_ids[queries.histories[i]] for i in range(len(queries))],
        tabled.item_ids[queries.targets],
        seen_filter=tabled.problem.protocol.seen_filter,
        coverage=True,
        bootstrap=0,
    )
    return _of_all(metrics, tabled)


def score_baselines(tabled: Tabled) -> dict[str, Metrics]:
    """Rank the same by every baseline, all of them fitted to the same table."""
    problem = tabled.problem
    options: dict[str, Any] = {"candidates": problem.candidates, "coverage": True, "bootstrap": 0}
    scored = next_item.score_baselines(problem, tabled.queries, max_len=BASELINE_HISTORY, **options)
    return {name: _of_all(metrics, tabled) for name, metrics in scored.items()}


def _of_all(metrics: Metrics, tabled: Tabled) -> Metrics:
    """Count the queries that were not asked as misses, with errors over users."""
    problem = tabled.problem
    test = problem.split.test
    ranks = np.full(len(test), MISS, np.int32)
    ranks[tabled.asked] = metrics.ranks
    counts = item_counts(problem.split.train, problem.num_items)
    weights = inverse_propensity(counts, test.targets, power=DEBIAS_POWER)
    own = metrics_of_ranks(ranks, users=test.users, weights=weights)
    own.values["coverage@10"] = metrics["coverage@10"]
    return own
