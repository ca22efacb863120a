"""How much a user vector loses while it waits: vectors computed some events ago.

    python -m experiments.staleness --data FOLDER

A daily batch computes user vectors; a request comes when the user has done more. Each test
user's vector is computed from the history without its last n events, and the next item is ranked
by it; what the user has seen is always left out, stale vector or not. Two models are compared,
trained alike but for the loss: short-term (each state against the item that follows) and
long-term (a pooled vector against the next items), which NxtPost's paper holds to age better.
All rows have the same users: those with more events than the oldest vector lacks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from experiments.harness.errors import InputError, bad_input
from experiments.harness.figures import (
    Figures,
    by_position,
    figures_of,
    means_by_label,
    ndcg_difference,
    seed_figures,
)
from experiments.harness.names import NAMES
from experiments.harness.options import check_least
from experiments.harness.plots import Draw, Points, draw_lines
from experiments.harness.report import Table, signed
from experiments.harness.study import Outcome, Posed, Setting, Study
from experiments.tasks.next_item import (
    baseline_scorers,
    data_name,
    pose,
    query_times,
    rank,
    read_interactions,
    score,
)
from experiments.tasks.nxtpost_training import SMOKE, TRAINED, NxtPostOptions, train_seeds
from nxtpost_jax import Metrics, Queries, Sequences

LOSSES = {
    "short": {"short_weight": 1.0, "long_weight": 0.0},
    "long": {"short_weight": 0.0, "long_weight": 1.0},
    "both": {"short_weight": 1.0, "long_weight": 0.5},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Staleness(NxtPostOptions):
    """Rank by user vectors that are some events old."""

    optimizer: Literal["adamw", "shampoo"] = "shampoo"
    """who trains"""
    epochs: int = 60
    """passes over the training data at most"""
    patience: int = 5
    """evaluations in a row without a new best that end a training"""
    ages: tuple[int, ...] = (0, 1, 10, 50)
    """events that the vector has not seen"""
    labels: int = 5
    """labels of the long-term loss"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ages or self.ages[0] != 0 or sorted(set(self.ages)) != list(self.ages):
            found = ",".join(map(str, self.ages))
            raise bad_input("--ages", expected="0 and then larger ages", found=found)
        check_least(self, labels=1)


PRESETS = {
    "default": Staleness(),
    "smoke": Staleness(**SMOKE, ages=(0, 2)),
}


def without_last(histories: Sequences, n: int) -> Sequences:
    """Leave out each history's last n events."""
    stops = np.maximum(histories.offsets[1:] - n, histories.offsets[:-1])
    return histories.ranges(histories.offsets[:-1], stops, users=np.arange(len(histories)))


def old_enough(queries: Queries, age: int, *, name: str) -> Queries:
    """Keep the queries that have an event left when `age` are left out.

    Raises:
      InputError: there is none.
    """
    kept = queries.select(queries.histories.lengths > age)
    if not len(kept):
        raise InputError(f"{name}: expected users with more than {age} events for --ages, found 0")
    return kept


def ageing(evaluate: Callable[..., Metrics], ages: Sequence[int]) -> list[Metrics]:
    """Rank with vectors of each age; `evaluate` takes what `ranking.evaluate` calls backfill."""
    return [evaluate(backfill=functools.partial(without_last, n=age)) for age in ages]


def table_of(
    ages: Sequence[int],
    baselines: Mapping[str, Sequence[Metrics]],
    models: Mapping[str, Sequence[Sequence[Metrics]]],
    *,
    figure: str,
) -> Table:
    """Lay one figure out by age; the last column compares the oldest vector with a fresh one."""

    def row(label: str, seeds: Sequence[Sequence[Metrics]]) -> list:
        pairs = [ndcg_difference(runs[-1], runs[0]) for runs in seeds]
        # The same users in every seed: their error does not shrink with the number of seeds.
        lost, error = np.mean(pairs, axis=0)
        ndcgs = means_by_label(seeds, "ndcg@10")
        share = ndcgs[-1] / ndcgs[0] if ndcgs[0] else None
        return [label, *means_by_label(seeds, figure), signed(lost, error), share]

    return Table(
        title=f"{figure.upper()} by the age of the user vector in events",
        columns=("", *map(str, ages), f"NDCG@10 lost at {ages[-1]}", "NDCG@10 kept"),
        baselines=[row(NAMES[name], [runs]) for name, runs in baselines.items()],
        rows=[row(f"NxtPost, {name}", seeds) for name, seeds in models.items()],
        note="Means over seeds; the standard error is over users.",
    )


def age_panels(figures: Figures) -> list[Draw]:
    """Draw NDCG@10 by age, of each loss beside the baselines, and the share that is kept."""
    points = by_position(figures, "ndcg@10")
    losses = {f"NxtPost, {name}": points[name] for name in LOSSES if name in points}
    kept = {
        name: [(age, value / max(own[0][1], 1e-9)) for age, value, *_ in own]
        for name, own in losses.items()
    }
    baselines = {NAMES[n]: points[n] for n in ("popularity", "markov", "item_knn") if n in points}
    draw = functools.partial(draw_ages, ages=[age for age, *_ in next(iter(losses.values()))])
    return [
        functools.partial(
            draw, curves=losses | baselines, y_label="test NDCG@10", title="Stale user vectors"
        ),
        functools.partial(draw, curves=kept, y_label="share of NDCG@10", title="What they keep"),
    ]


def draw_ages(
    axes: Axes, *, curves: Mapping[str, Points], ages: Sequence[float], y_label: str, title: str
) -> None:
    """Draw curves against the age, whose axis is logarithmic but for its zero."""
    x_label = "events that the vector has not seen"
    draw_lines(axes, curves=curves, x_label=x_label, y_label=y_label, title=title)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xticks(ages, [f"{age:g}" for age in ages])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)


def pose_stale(options: Staleness) -> Posed:
    """Read the interactions; the test users are those that are old enough."""
    interactions = read_interactions(options.data, columns=options.columns)
    problem = pose(interactions, content_dim=options.content_dim, seed=options.seed)
    test = old_enough(problem.split.test, options.ages[-1], name=interactions.name)
    return Posed((problem, test), data_name(interactions))


def measure(setting: Setting[Staleness]) -> Outcome:
    """Train, let the vectors age, test."""
    options, (problem, test) = setting.options, setting.inputs
    trained = {}
    for name, weights in LOSSES.items():
        objective = dataclasses.replace(options.objective, num_labels=options.labels, **weights)
        trained[name] = train_seeds(
            setting.run,
            problem,
            config=options.model,
            options=dataclasses.replace(options, objective=objective),
            optimizer=options.optimizer,
            stage=name,
            mesh=setting.mesh,
        )
    setting.look_at_test(TRAINED)
    models = {
        name: [
            ageing(
                functools.partial(score, problem, model, params=result.params, queries=test),
                options.ages,
            )
            for model, result in seeds
        ]
        for name, seeds in trained.items()
    }
    asked = {"max_len": options.model.max_len, "query_times": query_times(test)}
    ranked = functools.partial(rank, problem, queries=test, **asked)
    baselines = {
        name: ageing(functools.partial(ranked, scores), options.ages)
        for name, scores in baseline_scorers(problem, test).items()
    }
    protocol = dataclasses.replace(
        problem.protocol, history="all earlier events but the last n; seen items are those of all"
    )
    return Outcome(
        title=f"Stale user vectors: {problem.protocol.data}",
        intro=f"Trained by {options.optimizer}; {len(test):,} users with more than "
        f"{options.ages[-1]} events. {protocol.describe()}",
        protocol=protocol.asdict(),
        metrics=seed_figures(models, options.all_seeds, options.ages),
        baselines=figures_of(baselines, options.ages),
        tables=[table_of(options.ages, baselines, models, figure=f) for f in ("ndcg@10", "hr@10")],
        found=found(options.ages, models),
    )


def found(ages: Sequence[int], models: Mapping[str, Sequence[Sequence[Metrics]]]) -> str:
    """Say what each loss keeps at the oldest age."""
    kept = []
    for name, seeds in models.items():
        ndcgs = means_by_label(seeds, "ndcg@10")
        kept.append(f"{name} {ndcgs[-1] / ndcgs[0]:.2f}" if ndcgs[0] else f"{name} nothing")
    return f"Of its NDCG@10 a vector that misses {ages[-1]} events keeps: {', '.join(kept)}."


STUDY = Study(
    name="staleness",
    about="user vectors that miss the last events",
    minutes=20,
    claim="Vectors trained by the long-term loss age better than those of the short-term loss.",
    presets=PRESETS,
    claim_panels=age_panels,
    pose=pose_stale,
    measure=measure,
)
main = STUDY.main

if __name__ == "__main__":
    main()
