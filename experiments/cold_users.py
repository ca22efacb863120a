"""How well NxtPost serves users of whom little is known, by the number of events known.

    python -m experiments.cold_users --data FOLDER

One model is trained on whole histories. Each test history is then cut to its last n events, and
filled up in three ways: not at all, with popular items, with items of similar users. Where the
data tells of its users (MovieLens), a second model also reads their static features. The
baselines see the same cut histories. A target's rank leaves out the events that were kept only.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

import nxtpost_jax
from experiments.data.user_features import UserFeatures, read_user_features
from experiments.harness.figures import (
    Figures,
    by_position,
    figures_of,
    means_by_label,
    seed_figures,
)
from experiments.harness.names import NAMES
from experiments.harness.plots import Draw, draw_lines
from experiments.harness.report import Table
from experiments.harness.study import Outcome, Posed, Setting, Study
from experiments.loop.training import TrainResult
from experiments.tasks.next_item import (
    Problem,
    baseline_scorers,
    data_name,
    pose,
    query_times,
    rank,
    read_interactions,
    score,
)
from experiments.tasks.nxtpost_training import SMOKE, TRAINED, NxtPostOptions, train_seeds
from nxtpost_jax import Metrics, NxtPost, Sequences, Split
from nxtpost_jax.serving import backfill

Fill = Callable[[Sequences], Sequences] | None
ROWS = {
    "none": "NxtPost, no backfill",
    "popular": "NxtPost, popular items",
    "similar": "NxtPost, items of similar users",
    "static": "NxtPost with static features, no backfill",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColdUsers(NxtPostOptions):
    """Recommend to users of whom few events are known."""

    optimizer: Literal["adamw", "shampoo"] = "shampoo"
    """who trains"""
    epochs: int = 20
    """passes over the training data at most"""
    lengths: tuple[int, ...] = (0, 1, 2, 3, 5, 10)
    """events of a history that are kept"""
    fill_to: int = 10
    """events that a backfilled history has"""


PRESETS = {
    "default": ColdUsers(),
    "smoke": ColdUsers(**SMOKE, lengths=(0, 2)),
}


def with_static(problem: Problem, features: UserFeatures) -> Problem:
    """Give training sequences and histories their users' static features."""

    def told(sequences: Sequences, users) -> Sequences:
        return dataclasses.replace(sequences, static=features.values[users])

    split = problem.split
    parts = [
        dataclasses.replace(q, histories=told(q.histories, q.users))
        for q in (split.validation, split.test)
    ]
    train = told(split.train, np.arange(len(split.train)))
    return dataclasses.replace(problem, split=Split(train, *parts))


def fills_of(problem: Problem, *, fill_to: int) -> dict[str, Fill]:
    """Return the ways to fill a short history up."""
    train = problem.split.train
    fills: dict[str, Fill] = {
        "none": None,
        "popular": functools.partial(backfill.fill_with_popular, train=train, n=fill_to),
    }
    if problem.content is not None:
        fills["similar"] = functools.partial(
            backfill.fill_from_similar_users, train=train, n=fill_to, content=problem.content
        )
    return fills


def curves_of(
    problem: Problem,
    trained: Sequence[tuple[NxtPost, TrainResult]],
    *,
    fills: Mapping[str, Fill],
    lengths: Sequence[int],
) -> dict[str, list[list[Metrics]]]:
    """Rank the test targets with histories cut to each length, filled in each way.

    A history that is cut to nothing has no last event: requests come when they came uncut.

    Returns:
      By fill, a list a seed of the metrics by length.
    """
    asked: dict[str, Any] = {"query_times": query_times(problem.split.test)}
    cut = [nxtpost_jax.truncate_histories(problem.split.test, n) for n in lengths]
    return {
        name: [
            [
                score(problem, model, params=own.params, queries=queries, backfill=fill, **asked)
                for queries in cut
            ]
            for model, own in trained
        ]
        for name, fill in fills.items()
    }


def baseline_curves(
    problem: Problem, lengths: Sequence[int], *, max_len: int
) -> dict[str, list[Metrics]]:
    """Rank by the baselines with the same cut histories."""
    test = problem.split.test
    options = {"max_len": max_len, "query_times": query_times(test)}
    cut = [nxtpost_jax.truncate_histories(test, n) for n in lengths]
    return {
        name: [rank(problem, scores, queries=queries, **options) for queries in cut]
        for name, scores in baseline_scorers(problem, test).items()
    }


def table_of(
    lengths: Sequence[int],
    baselines: Mapping[str, Sequence[Metrics]],
    models: Mapping[str, Sequence[Sequence[Metrics]]],
    *,
    figure: str,
) -> Table:
    """Lay one figure out by length."""

    def row(label: str, seeds: Sequence[Sequence[Metrics]]) -> list:
        # The same users in every seed: their error does not shrink with the number of seeds.
        error = np.mean([runs[0].standard_errors[figure] for runs in seeds])
        return [label, *means_by_label(seeds, figure), error]

    return Table(
        title=f"{figure.upper()} by events known",
        columns=("", *map(str, lengths), f"s.e. at {lengths[0]}"),
        baselines=[row(NAMES[name], [runs]) for name, runs in baselines.items()],
        rows=[row(ROWS[name], seeds) for name, seeds in models.items()],
        note="Means over seeds; standard errors are over users.",
    )


def length_panels(figures: Figures) -> list[Draw]:
    """Draw NDCG@10 by the events known: NxtPost beside the baselines, and its ways to fill up."""
    points = by_position(figures, "ndcg@10")
    ways = {ROWS[name]: points[name] for name in ROWS if name in points}
    baselines = ("popularity", "markov", "item_knn", "content_knn")
    beside = {ROWS["none"]: points["none"]}
    beside |= {NAMES[name]: points[name] for name in baselines if name in points}
    draw = functools.partial(draw_lines, x_label="events known of a user", y_label="test NDCG@10")
    return [
        functools.partial(draw, curves=beside, title="Cold users"),
        functools.partial(draw, curves=ways, title="Ways to serve them"),
    ]


def pose_users(options: ColdUsers) -> Posed:
    """Read the interactions and, where the data tells of its users, their features."""
    interactions = read_interactions(options.data, columns=options.columns)
    problem = pose(interactions, content_dim=options.content_dim, seed=options.seed)
    features = options.data and read_user_features(options.data, interactions.user_ids)
    return Posed((problem, features), data_name(interactions))


def measure(setting: Setting[ColdUsers]) -> Outcome:
    """Train, cut histories, test."""
    options, (problem, features) = setting.options, setting.inputs
    how = {"options": options, "optimizer": options.optimizer, "mesh": setting.mesh}
    train = functools.partial(train_seeds, setting.run, **how)
    plain = train(problem, config=options.model, stage="plain")
    static = None
    if features:
        told = with_static(problem, features)
        config = dataclasses.replace(options.model, static_sizes=features.sizes)
        static = told, train(told, config=config, stage="static")
    setting.look_at_test(TRAINED)
    lengths = options.lengths
    models = curves_of(
        problem,
        plain,
        fills=fills_of(problem, fill_to=options.fill_to),
        lengths=lengths,
    )
    if static:
        models |= curves_of(*static, fills={"static": None}, lengths=lengths)
    baselines = baseline_curves(problem, lengths, max_len=options.model.max_len)
    return Outcome(
        title=f"Cold users: {problem.protocol.data}",
        intro=f"Trained by {options.optimizer}; backfill up to {options.fill_to} events. "
        f"{problem.protocol.describe()}",
        protocol=problem.protocol.asdict(),
        metrics=seed_figures(models, options.all_seeds, lengths),
        baselines=figures_of(baselines, lengths),
        tables=[table_of(lengths, baselines, models, figure=f) for f in ("ndcg@10", "hr@10")],
        found=found(lengths, baselines, models),
    )


def found(
    lengths: Sequence[int],
    baselines: Mapping[str, Sequence[Metrics]],
    models: Mapping[str, Sequence[Sequence[Metrics]]],
) -> str:
    """Say what the model has beside the best baseline where least is known."""
    ndcg = means_by_label(models["none"], "ndcg@10")[0]
    best = max(baselines, key=lambda name: baselines[name][0]["ndcg@10"])
    return (
        f"With {lengths[0]} events known NxtPost has an NDCG@10 of {ndcg:.4f} without backfill, "
        f"{NAMES[best]} {baselines[best][0]['ndcg@10']:.4f}."
    )


STUDY = Study(
    name="cold_users",
    about="users of whom few events are known",
    minutes=10,
    claim="NxtPost serves users of whom little is known better than the baselines do.",
    presets=PRESETS,
    claim_panels=length_panels,
    pose=pose_users,
    measure=measure,
)
main = STUDY.main

if __name__ == "__main__":
    main()
