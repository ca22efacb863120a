"""Items that training never saw: NxtPost by content, by id and by both, beside content-KNN.

    python -m experiments.fresh_items --data FOLDER --split items    # 10 % of the items held out
    python -m experiments.fresh_items --data FOLDER --split time     # what is new at the end
    python -m experiments.fresh_items --data FOLDER --split time --live --models both trends

`items`: a tenth of the items, drawn by seed, loses all its events before training; their targets
are the cold test queries. A twentieth more is held out for the cold validation queries, so that
selection never looks at the test items. `time`: training ends after 80 % of the events, validation
after 90 %; an item is cold that has no training event. Cold targets are ranked among all items and
among the cold ones alone. The epoch is selected by the harmonic mean of warm and cold validation
NDCG@10.

`--live`: requests come on the day of their target, and what happened before that day is known to
the popularity of seven days and to the model with trends, which counts it. Nobody trains on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from jax.sharding import Mesh

import nxtpost_jax
from experiments.data.content import content_vectors
from experiments.data.interactions import Interactions
from experiments.harness.errors import bad_input
from experiments.harness.run_folder import Run
from experiments.harness.study import Outcome, Posed, Setting, Study
from experiments.studies.fresh_report import MODELS, Scores, flat, found, part_panels, table_of
from experiments.tasks.next_item import (
    Problem,
    baseline_scorers,
    data_name,
    query_times,
    rank,
    read_interactions,
    score,
    sequences_of,
)
from experiments.tasks.nxtpost_training import SMOKE, TRAINED, NxtPostOptions, train_one
from nxtpost_jax import Metrics, NxtPost, Protocol, Queries, Sequences
from nxtpost_jax.events.trends import DAY

TEST_SHARE, VALIDATION_SHARE = 0.10, 0.05
LIVE = "the day of the target; what happened before it is known, to trends and popularity of 7 days"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreshItems(NxtPostOptions):
    """Recommend items that training never saw."""

    optimizer: Literal["adamw", "shampoo"] = "shampoo"
    """who trains"""
    epochs: int = 20
    """passes over the training data at most"""
    split: Literal["items", "time"] = "items"
    """how items become cold: held out by draw, or new in time"""
    live: bool = False
    """what happened before the day of a request is known then; for --split time"""
    models: tuple[str, ...] = ("both", "content", "id")
    """what items are known by: both, content, id or trends (and both)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.live and self.split != "time":
            raise bad_input("--live", expected="--split time beside it", found=self.split)
        for name in self.models:
            if name not in MODELS:
                raise bad_input("--models", expected=f"some of {', '.join(MODELS)}", found=name)


PRESETS = {
    "default": FreshItems(),
    "smoke": FreshItems(**SMOKE),
}


class Parts(NamedTuple):
    """Queries for items that training knows, and for the cold ones of this split."""

    warm: Queries
    cold: Queries


@dataclasses.dataclass(frozen=True, eq=False)
class Fresh:
    """A problem with cold items.

    Attributes:
      problem: as others train on it; its content is fitted on the training items.
      cold: bool [N], the items whose recommendation is tested cold.
      validation, test: the queries.
      step: seconds; live requests are asked at the start of the target's one.
    """

    problem: Problem
    cold: np.ndarray
    validation: Parts
    test: Parts
    step: float = DAY

    def asked(self, queries: Queries) -> dict[str, np.ndarray | None]:
        """Say when queries are asked, as an option of `ranking.evaluate`: see `--live`."""
        live = self.problem.live
        if live is None:
            return {"query_times": query_times(queries)}
        # A history is what a user did before the target.
        at = live.offsets[queries.users] + queries.histories.lengths
        assert live.times is not None  # `_cut_in_time` has looked
        assert np.array_equal(live.items[at], queries.targets)
        return {"query_times": np.floor(live.times[at] / self.step) * self.step}


def pose_fresh(interactions: Interactions, options: FreshItems) -> Fresh:
    """Split interactions so that some items are cold, and embed what is said of the items.

    Raises:
      InputError: the data has no order, no times for `--split time`, no content, or no query of
        one of the four kinds is left.
    """
    sequences = sequences_of(interactions)
    by_draw = options.split == "items"
    cut = _hold_out if by_draw else _cut_in_time
    split, validation_cold, test_cold, rule = cut(interactions, sequences, options.seed)
    known = np.zeros(interactions.n_items, bool)
    known[split.train.items] = True
    content, has_content = content_vectors(
        interactions, known, dim=max(options.content_dim, 1), seed=options.seed
    )
    if not has_content.any():
        raise bad_input(interactions.name, expected="items with content", found="none")
    validation, test = (
        Parts(
            warm=nxtpost_jax.with_targets(queries, np.flatnonzero(known))[0],
            cold=nxtpost_jax.with_targets(queries, np.flatnonzero(cold))[0],
        )
        for queries, cold in ((split.validation, validation_cold), (split.test, test_cold))
    )
    for name, parts in (("validation", validation), ("test", test)):
        for kind, queries in parts._asdict().items():
            if not len(queries):
                what = f"{kind} queries for {name}"
                raise bad_input(interactions.name, expected=what, found="none")
    protocol = Protocol(
        data=interactions.name,
        data_hash=interactions.sha256,
        split=rule,
        selection="harmonic mean of warm and cold validation NDCG@10",
        seen_filter=by_draw,
        notes="; ".join(interactions.notes),
    )
    if options.live:
        protocol = dataclasses.replace(protocol, query_time=LIVE)
    problem = Problem(
        split=split,
        num_items=interactions.n_items,
        content=content,
        candidates=np.flatnonzero(known).astype(np.int32),
        protocol=protocol,
        live=sequences if options.live else None,
    )
    return Fresh(problem, test_cold, validation, test, options.model.trend_step)


def _hold_out(interactions: Interactions, sequences: Sequences, seed: int):
    """Draw the cold items: a tenth for the test, a twentieth for validation."""
    order = np.random.default_rng(seed).permutation(interactions.n_items)
    ends = [round(share * len(order)) for share in (TEST_SHARE, TEST_SHARE + VALIDATION_SHARE)]
    test_cold, validation_cold = (np.zeros(len(order), bool) for _ in range(2))
    test_cold[order[: ends[0]]] = True
    validation_cold[order[ends[0] : ends[1]]] = True
    split = nxtpost_jax.hold_out_items(sequences, order[: ends[1]])
    rule = "leave one out; a tenth of the items is cold in test, a twentieth in validation"
    return split, validation_cold, test_cold, rule


def _cut_in_time(interactions: Interactions, sequences: Sequences, seed: int):
    """Take what has no training event as cold, in validation and test alike."""
    del seed
    if interactions.timestamps is None:
        raise bad_input(interactions.name, expected="timestamps for --split time", found="none")
    first, second = np.quantile(interactions.timestamps, (0.8, 0.9))
    split = nxtpost_jax.global_time(sequences, validation_from=first, test_from=second)
    cold = np.ones(interactions.n_items, bool)
    cold[split.train.items] = False
    rule = "global time: training ends after 80 % of the events, validation after 90 %; a user's "
    return split, cold, cold, rule + "first event of the period is the target"


def score_parts(evaluate: Callable[..., Metrics], parts: Parts, *, cold: np.ndarray) -> Scores:
    """Rank the targets of each part by `evaluate(queries, **options)`."""
    return Scores(
        warm=evaluate(parts.warm),
        cold=evaluate(parts.cold),
        cold_only=evaluate(parts.cold, candidates=cold),
    )


def train_model(
    run: Run, fresh: Fresh, *, kind: str, options: FreshItems, mesh: Mesh, seed: int
) -> tuple[Problem, NxtPost, Any]:
    """Train one kind of model; return it with its parameters and the problem it reads."""
    content = None if kind == "id" else fresh.problem.content
    problem = dataclasses.replace(fresh.problem, content=content)
    config = dataclasses.replace(
        options.model, id_embedding=kind != "content", trends=kind == "trends"
    )

    def evaluate(model, params) -> Mapping[str, float]:
        def ndcg(queries):
            how = {"bootstrap": 0, **fresh.asked(queries)}
            return score(problem, model, params=params, queries=queries, **how)["ndcg@10"]

        warm, cold = ndcg(fresh.validation.warm), ndcg(fresh.validation.cold)
        # An id says nothing of a cold item: such a model is selected on the warm ones.
        both = warm if kind == "id" else nxtpost_jax.harmonic_mean(warm, cold)
        return {"ndcg@10": both, "warm_ndcg@10": warm, "cold_ndcg@10": cold}

    model, result = train_one(
        run,
        problem,
        config=config,
        options=options,
        optimizer=options.optimizer,
        stage=f"{kind}-{seed}",
        seed=seed,
        mesh=mesh,
        evaluate=evaluate,
    )
    return problem, model, result.params


def score_baselines(fresh: Fresh, *, max_len: int) -> dict[str, Scores]:
    """Rank by every baseline."""

    def of(scores_fn):
        def evaluate(queries, **options):
            options |= {"max_len": max_len, **fresh.asked(queries)}
            return rank(fresh.problem, scores_fn, queries=queries, **options)

        return score_parts(evaluate, fresh.test, cold=fresh.cold)

    scorers = baseline_scorers(fresh.problem, fresh.test.warm)
    return {name: of(scores_fn) for name, scores_fn in scorers.items()}


def score_model(fresh: Fresh, problem: Problem, model: NxtPost, params: Any) -> Scores:
    """Rank by a trained model."""

    def evaluate(queries, **options) -> Metrics:
        options |= fresh.asked(queries)
        return score(problem, model, params=params, queries=queries, **options)

    return score_parts(evaluate, fresh.test, cold=fresh.cold)


def pose_command(options: FreshItems) -> Posed:
    """Read the interactions and hold items out."""
    interactions = read_interactions(options.data, columns=options.columns)
    return Posed(pose_fresh(interactions, options), data_name(interactions))


def measure(setting: Setting[FreshItems]) -> Outcome:
    """Train, select, test."""
    options, fresh = setting.options, setting.inputs
    trained = {
        kind: [
            train_model(
                setting.run, fresh, kind=kind, options=options, mesh=setting.mesh, seed=seed
            )
            for seed in options.all_seeds
        ]
        for kind in options.models
    }
    setting.look_at_test(TRAINED)
    baselines = score_baselines(fresh, max_len=options.model.max_len)
    models = {k: [score_model(fresh, *one) for one in own] for k, own in trained.items()}
    figures: dict[str, float] = {}
    for kind, runs in models.items():
        for seed, own in zip(options.all_seeds, runs):
            figures |= flat(f"{kind}/{seed}", own)
    protocol, test = fresh.problem.protocol, fresh.test
    sizes = {"warm": len(test.warm), "cold": len(test.cold), "cold_N": fresh.cold}
    return Outcome(
        title=f"Fresh items: {protocol.data}",
        intro=f"Trained by {options.optimizer}. {protocol.describe()}",
        protocol=protocol.asdict(),
        metrics=figures,
        baselines={k: v for name, own in baselines.items() for k, v in flat(name, own).items()},
        tables=[table_of(baselines, models, **sizes)],
        found=found(baselines, models),
    )


STUDY = Study(
    name="fresh_items",
    about="items that training never saw, by content and id",
    minutes=10,
    claim="Items that training never saw are recommended better than by content-KNN, and known "
    "items no worse than by ids alone.",
    presets=PRESETS,
    claim_panels=part_panels,
    pose=pose_command,
    measure=measure,
)
main = STUDY.main

if __name__ == "__main__":
    main()
