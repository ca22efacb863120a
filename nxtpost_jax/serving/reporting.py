"""Report how good a fitted recommender is, by events that its fit left out."""

from __future__ import annotations

from functools import partial

import numpy as np

from nxtpost_jax.evaluation.ranking import evaluate, last_times
from nxtpost_jax.evaluation.report import Report, baselines_of, compared
from nxtpost_jax.serving import requests
from nxtpost_jax.serving.learning import FEWEST
from nxtpost_jax.serving.reading import Reader

_HISTORY = 200  # events of a history that a baseline is given


def report(reader: Reader) -> Report:
    """Rank what was left out by the recommender and by the baselines, see `Recommender.report`.

    Items that came since the fit are no candidates, and no target of today's has been removed.

    Raises:
      ValueError: nothing was left out.
    """
    held, start = reader.state.held, reader.start
    if held is None:
        raise ValueError(
            f"report: expected a fit without epochs= and validation=, of at least {2 * FEWEST} "
            "users with three events, found none"
        )
    ids = reader.catalogue.sorted_ids
    candidates = ids[ids < start.num_items]
    queries = held.test.select(np.isin(held.test.targets, candidates))
    own = requests.rank_queries(
        reader,
        queries,
        candidates=reader.catalogue.names.take(candidates),
        seen_filter=held.seen_filter,
    )
    histories = queries.histories
    rank = partial(
        evaluate,
        queries=queries,
        max_len=_HISTORY,
        candidates=candidates,
        seen_filter=held.seen_filter,
        query_times=None if histories.times is None else last_times(histories),
    )
    scorers = baselines_of(held.train, start.num_items, content=start.content)
    seen = "seen items left out" if held.seen_filter else "seen items kept"
    protocol = (
        f"{len(queries):,} users' last events, which the fit has not seen, ranked among all "
        f"{len(candidates):,} items; {seen}; ± is a standard error over users."
    )
    return compared(own, scorers, rank=rank, protocol=protocol)
