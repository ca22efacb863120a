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
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

import nxtpost_jax
from experiments.data.user_features import UserFeatures, read_user_features
from experiments.harness.errors import exit_on_input_error
from experiments.harness.options import parse, select_devices
from experiments.harness.report import COLORS, Table, finish_axes, print_table, write_report
from experiments.harness.results import check_keep, finish, log_test_evaluation
from experiments.harness.run_folder import Run, open_run
from experiments.loop.sharding import make_mesh
from experiments.nxtpost import SMOKE, TRAINED, NxtPostOptions, train_seeds
from experiments.studies.path_report import NAMES
from experiments.tasks.next_item import (
    Problem,
    baseline_scorers,
    data_name,
    figures_of,
    means_by_label,
    pose,
    query_times,
    rank,
    read_interactions,
    score,
    seed_figures,
)
from nxtpost_jax import Metrics, Sequences, Split
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
    lengths: tuple[int, ...] = (0, 1, 2, 3, 5, 10)
    """events of a history that are kept"""
    fill_to: int = 10
    """events that a backfilled history has"""


PRESETS = {
    "default": ColdUsers(epochs=20),
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


def curves_of(problem: Problem, trained, fills, lengths) -> dict[str, list[list[Metrics]]]:
    """Rank the test targets with histories cut to each length, filled in each way.

    Returns:
      By fill, a list a seed of the metrics by length.
    """
    cut = [nxtpost_jax.truncate_histories(problem.split.test, n) for n in lengths]
    return {
        name: [
            [score(problem, model, result.params, queries, backfill=fill) for queries in cut]
            for model, result in trained
        ]
        for name, fill in fills.items()
    }


def baseline_curves(problem: Problem, lengths, *, max_len: int) -> dict[str, list[Metrics]]:
    """Rank by the baselines with the same cut histories."""
    test = problem.split.test
    # A history that is cut to nothing has no last event: requests come when they came uncut.
    options = {"max_len": max_len, "query_times": query_times(test)}
    cut = [nxtpost_jax.truncate_histories(test, n) for n in lengths]
    return {
        name: [rank(problem, scores, queries, **options) for queries in cut]
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


def draw(axes: Axes, *, lengths, curves: Mapping[str, Sequence[Sequence[Metrics]]]) -> None:
    """Draw NDCG@10 against the number of events known."""
    for i, (name, seeds) in enumerate(curves.items()):
        label = ROWS.get(name) or NAMES[name]
        style = {"linestyle": "-" if name in ROWS else ":", "color": COLORS[i % len(COLORS)]}
        axes.plot(lengths, means_by_label(seeds, "ndcg@10"), marker="o", label=label, **style)
    axes.set_xlabel("events known of a user")
    axes.set_ylabel("NDCG@10")
    axes.set_title("Cold users")
    finish_axes(axes)


@exit_on_input_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Train, cut histories, test, report."""
    options, arguments = parse("cold_users", PRESETS, argv)
    check_keep(options.keep)
    mesh = make_mesh(select_devices(options.devices))
    interactions = read_interactions(options.data)
    problem = pose(interactions, content_dim=options.content_dim, seed=options.seed)
    features = options.data and read_user_features(options.data, interactions.user_ids)
    data = data_name(interactions)
    with open_run("cold_users", options, arguments=arguments, data=data) as run:
        how = {"options": options, "optimizer": options.optimizer, "mesh": mesh}
        train = functools.partial(train_seeds, run, **how)
        plain = train(problem, options.model, stage="plain")
        if features:
            told = with_static(problem, features)
            config = dataclasses.replace(options.model, static_sizes=features.sizes)
            static = train(told, config, stage="static")
        log_test_evaluation(run, keep=options.keep, reason=TRAINED)
        fills = fills_of(problem, fill_to=options.fill_to)
        models = curves_of(problem, plain, fills, options.lengths)
        if features:
            models |= curves_of(told, static, {"static": None}, options.lengths)
        baselines = baseline_curves(problem, options.lengths, max_len=options.model.max_len)
        _report(run, problem, options, baselines, models, mesh=mesh)


def _report(run: Run, problem: Problem, options: ColdUsers, baselines, models, *, mesh) -> None:
    lengths = options.lengths
    summary = run.write_summary(
        protocol=problem.protocol.asdict(),
        metrics=seed_figures(models, options.all_seeds, lengths),
        baselines=figures_of(baselines, lengths),
        seeds=options.all_seeds,
        devices=list(mesh.devices.flat),
    )
    curves = models | {name: [runs] for name, runs in baselines.items()}
    tables = [table_of(lengths, baselines, models, figure=f) for f in ("ndcg@10", "hr@10")]
    for table in tables:
        print_table(table)
    write_report(
        run,
        title=f"Cold users: {problem.protocol.data}",
        intro=f"Trained by {options.optimizer}; backfill up to {options.fill_to} events. "
        f"{problem.protocol.describe()}",
        summary=summary,
        tables=tables,
        panels=[functools.partial(draw, lengths=lengths, curves=curves)],
    )
    finish(run, keep=options.keep)


if __name__ == "__main__":
    main()
