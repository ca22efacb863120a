"""What task tables measures on: any events in an order, or the simulated log."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data.drawn_interests import drawn_interests
from experiments.data.interactions import Interactions
from experiments.data.user_features import read_user_features
from experiments.harness.study import Outcome, Posed, Setting
from experiments.studies.options import Tables
from experiments.studies.rated_scorer import CROSSES
from experiments.studies.tables.command import run_tables
from experiments.tasks.next_item import data_name, read_interactions
from experiments.tasks.rated_events import LIKED, is_rated, make_examples

LIBRARY_CALLS = Path("library-calls")  # what --data names the mined calls by


class Log(NamedTuple):
    """Events, and what is liked in truth, float [users, items], where they are drawn."""

    interactions: Interactions
    utility: np.ndarray | None = None


def pose_tables(options: Tables) -> Posed[Tables]:
    """Read what --data names, or draw; complete which crosses are read."""
    if options.data is None:
        drawn = drawn_interests(**vars(options.drawn), seed=options.seed)
        log, crosses = Log(*drawn), ()
    else:
        named = options.data == LIBRARY_CALLS and not options.data.exists()
        path = None if named else options.data
        log, crosses = Log(read_interactions(path, columns=options.columns)), CROSSES
    print(log.interactions.summary())
    tables = options.tables
    if tables.crosses is None:
        tables = dataclasses.replace(tables, crosses=crosses)
    completed = dataclasses.replace(options, tables=tables)
    return Posed(log, data_name(log.interactions), completed)


def measure_tables(setting: Setting[Tables]) -> Outcome:
    """Pass the gates, or say what cannot be decided; all seeds together."""
    options, (interactions, utility) = setting.options, setting.inputs
    demographics, rated = None, is_rated(interactions)
    stale_days = options.tables.stale_days
    if options.data is not None and options.data.exists():
        demographics = read_user_features(options.data, interactions.user_ids)
    return run_tables(
        setting.run,
        make_examples(interactions, demographics, implicit=not rated, stale_days=stale_days),
        config=options.tables,
        protocol=protocol_of(
            interactions, rated=rated, simulated=utility is not None, stale_days=stale_days
        ),
        utility=utility,
        seeds=options.all_seeds,
        mesh=setting.mesh,
        before_test=lambda: setting.look_at_test("everything trained and chosen"),
    )


def protocol_of(
    interactions: Interactions, *, rated: bool, simulated: bool, stale_days: float | None
) -> dict[str, Any]:
    """Say how the figures come about."""
    split = "each user's first 80% of events train, the next 10% validate, the last 10% test"
    if stale_days is not None:
        split = (
            f"the last 10% of all events test; all models, and what is counted, end {stale_days:g} "
            "days before: the last ninth of what is older validates, the rest trains; histories "
            "reach to the request"
        )
    liked = f"a rating of at least {LIKED:.0%} of the best"
    if not rated:
        liked = "every event; of events of one pair the first, without cancellations"
    return {
        "data": f"{interactions.name}, simulated" if simulated else interactions.name,
        "data_hash": interactions.sha256,
        "liked": liked,
        "split": split,
        "selection": "validation recall@50",
        "candidates": "all items that the user has not met before",
        "notes": "; ".join(interactions.notes),
    }
