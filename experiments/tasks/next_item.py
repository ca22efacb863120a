"""Next-item recommendation as experiments pose it: data, split, content, baselines, training."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import nxtpost_jax
from experiments.data.content import content_vectors
from experiments.data.datasets import read
from experiments.data.interactions import Interactions
from experiments.data.library_calls import library_calls, package_split
from experiments.data.log_table import parse_columns
from experiments.harness.errors import InputError
from experiments.harness.processes import alone, deal_of_queries
from experiments.harness.provenance import DataName
from experiments.harness.run_folder import Run
from experiments.loop.sharding import own_copy
from experiments.loop.train_step import Params
from experiments.loop.training import TrainResult, train
from nxtpost_jax import (
    Metrics,
    NxtPost,
    NxtPostConfig,
    Objective,
    Protocol,
    Queries,
    Recommender,
    Sequences,
    Split,
    Trends,
)
from nxtpost_jax.evaluation import baselines as baseline_models
from nxtpost_jax.evaluation.ranking import ScoresFn
from nxtpost_jax.events.content import with_nan_rows
from nxtpost_jax.training import averages
from nxtpost_jax.training.fitting import Validate
from nxtpost_jax.training.task import Task

MOST_RATINGS = 12  # a strength of more values, such as a quantity, is no rating
Evaluate = Callable[[NxtPost, Params], Mapping[str, float]]


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Who must be recommended what, from what.

    Attributes:
      split: training sequences, validation and test queries.
      num_items: N.
      content: float32 [N, C], unit rows; a row of zeros is an item without content. None where
        no item has content.
      candidates: int32 [m], the items of the training period: those that negatives come from.
      protocol: printed with every figure.
      live: what trends count, as far as it lies before a query; None for the training part.
    """

    split: Split
    num_items: int
    content: np.ndarray | None
    candidates: np.ndarray
    protocol: Protocol
    live: Sequences | None = None


def read_interactions(path: Path | None, *, columns: str | None = None) -> Interactions:
    """Read what --data and --columns name, or mine library calls."""
    return library_calls() if path is None else read(path, parse_columns(columns))


def data_name(interactions: Interactions) -> DataName:
    """Name the data in commands that are kept."""
    return DataName(f"<{interactions.name}>", interactions.sha256)


def sequences_of(interactions: Interactions) -> Sequences:
    """Group the events by user, in their order, with their actions where there are any.

    Raises:
      InputError: the data has no order.
    """
    if not interactions.ordered:
        raise InputError(f"{interactions.name}: expected events in an order, found sets")
    return Sequences.from_events(
        interactions.users,
        interactions.items,
        times=interactions.timestamps,
        actions=_actions_of(interactions),
        num_users=interactions.n_users,
    )


def _actions_of(interactions: Interactions) -> np.ndarray | None:
    """Return each event's action, the first of all: what was done, or else the rating given."""
    if interactions.actions is not None:
        return interactions.actions
    if interactions.weights is None:
        return None
    ratings, actions = np.unique(interactions.weights, return_inverse=True)
    return actions if len(ratings) <= MOST_RATINGS else None


def pose(
    interactions: Interactions, *, content_dim: int, seed: int = 0, held_out: int = 1
) -> Problem:
    """Split interactions and embed the items' texts, fitted on the training period.

    A `content_dim` of 0 leaves content out. Users' last `held_out` events are test, as many
    before them validation, and the first of either is the target; where users have groups
    (packages of library calls), whole groups are validation and test.

    Raises:
      InputError: the data has no order, or no user is long enough to be asked about.
    """
    sequences = sequences_of(interactions)
    grouped = interactions.groups is not None
    split = nxtpost_jax.leave_last(sequences, held_out)
    if grouped:
        split = _split_by_group(interactions, sequences, held_out)
    for name in ("validation", "test"):
        if not len(getattr(split, name)):
            raise InputError(
                f"{interactions.name}: expected users with at least {2 * held_out + 1} events for "
                f"{name}, found none"
            )
    known = np.zeros(interactions.n_items, bool)
    known[split.train.items] = True
    content = None
    if content_dim:
        content, has_content = content_vectors(interactions, known, dim=content_dim, seed=seed)
        content = content if has_content.any() else None
    own: dict[str, Any] = {}
    if grouped:
        # A function may call what it called before: seen items stay candidates there.
        rule = "whole packages are validation or test; a function's last call is its target"
        own = {"split": rule, "seen_filter": False}
    elif held_out > 1:
        rule = f"the last {held_out} events are test, the {held_out} before validation, the first"
        own = {"split": f"{rule} of either is the target"}
    protocol = Protocol(
        data=interactions.name,
        data_hash=interactions.sha256,
        notes="; ".join(interactions.notes),
        **own,
    )
    return Problem(
        split=split,
        num_items=interactions.n_items,
        content=content,
        candidates=np.flatnonzero(known).astype(np.int32),
        protocol=protocol,
    )


def _split_by_group(interactions: Interactions, sequences: Sequences, held_out: int) -> Split:
    validation, test = (np.flatnonzero(users) for users in package_split(interactions))
    return nxtpost_jax.by_user(sequences, validation_users=validation, test_users=test, m=held_out)


def baseline_scorers(problem: Problem, queries: Queries) -> dict[str, ScoresFn]:
    """Fit the baselines to the training part.

    Popularity (of all time and, where there are times, of the seven days before the query),
    skip-3 Markov, item-KNN and, where there is content, content-KNN.
    """
    train_part, num_items = problem.split.train, problem.num_items
    scorers = {"popularity": baseline_models.popularity(train_part, num_items)}
    if queries.histories.times is not None:
        known = train_part if problem.live is None else problem.live
        scorers["popularity_7d"] = baseline_models.recent_popularity(known, num_items)
    scorers["markov"] = baseline_models.markov(train_part, num_items)
    scorers["item_knn"] = baseline_models.item_knn(train_part, num_items)
    if problem.content is not None:
        scorers["content_knn"] = baseline_models.content_knn(problem.content)
    return scorers


def rank(problem: Problem, scores_fn: ScoresFn, *, queries: Queries, **options: Any) -> Metrics:
    """Rank the targets as the protocol says; options as in `ranking.evaluate`.

    Several processes rank a share of the queries each, and all get all figures.
    """
    options |= {"seen_filter": problem.protocol.seen_filter, "deal": deal_of_queries()}
    return nxtpost_jax.evaluate(scores_fn, queries, **options)


def query_times(queries: Queries) -> np.ndarray | None:
    """Return when each query is asked, the time of its last event; None without times."""
    histories = queries.histories
    return None if histories.times is None else nxtpost_jax.last_times(histories)


def score_baselines(
    problem: Problem, queries: Queries, *, max_len: int, **options: Any
) -> dict[str, Metrics]:
    """Rank the targets by every baseline; options as in `ranking.evaluate`."""
    options |= {"max_len": max_len, "query_times": query_times(queries)}
    scorers = baseline_scorers(problem, queries)
    return {
        name: rank(problem, scores, queries=queries, **options) for name, scores in scorers.items()
    }


@dataclasses.dataclass
class StageLoop:
    """The loop of a stage of a run, as `Recommender.fit` takes one; its result is kept.

    `average` is that of `Recommender.fit`, 0 for none.
    """

    run: Run
    stage: str
    mesh: Mesh
    average: float = 0.0
    result: TrainResult | None = None

    def __call__(
        self,
        task: Task,
        *,
        tx: optax.GradientTransformation,
        epochs: int,
        validate: Validate | None,
        validate_every: int,
        select: str,
        patience: int | None,
        log: Callable[[dict[str, float]], None] | None,
    ) -> tuple[Params, list[dict[str, float]]]:
        """Train a task as one stage, or finish it: parameters, and a record per epoch."""
        weight = None
        if self.average:
            eta = float(np.float32(averages.eta_of(self.average)))  # as the built-in loop holds it
            weight = functools.partial(averages.weight, eta=eta)
        self.result = train(
            self.run,
            stage=self.stage,
            init_params=task.init,
            loss=task.loss,
            tx=tx,
            batches=task.batches,
            epochs=epochs,
            steps_per_epoch=task.steps_per_epoch,
            seed=task.seed,
            mesh=self.mesh,
            evaluate=validate,
            evaluate_every=validate_every,
            select=None if validate is None else select,
            batch_shapes=len(task.batch_shapes),
            patience=patience,
            average=weight,
        )
        if log is not None:
            for record in self.result.history:
                log(record)
        return self.result.params, self.result.history


def train_nxtpost(
    run: Run,
    problem: Problem,
    *,
    config: NxtPostConfig,
    stage: str,
    tx: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    objective: Objective,
    evaluate_every: int,
    seed: int,
    mesh: Mesh,
    buckets: int = 1,
    patience: int | None = None,
    average: float = 0.0,
    evaluate: Evaluate | None = None,
) -> tuple[NxtPost, TrainResult]:
    """Fit a `Recommender` as one stage of a run; the epoch is selected by validation NDCG@10.

    `evaluate` maps the model and parameters to validation metrics, "ndcg@10" among them; by
    default the validation targets are ranked among all items.
    """
    content = None if problem.content is None else with_nan_rows(problem.content)
    recommender = Recommender(config, content, num_items=problem.num_items, tx=tx)
    loop = StageLoop(run, stage, mesh, average)
    figures = evaluate or functools.partial(validation_metrics, problem)
    recommender.fit(
        problem.split.train,
        epochs=epochs,
        batch_size=batch_size,
        buckets=buckets,
        objective=objective,
        seed=seed,
        validation=functools.partial(figures, recommender.model),
        validate_every=evaluate_every,
        patience=patience,
        loop=loop,
    )
    assert loop.result is not None  # `fit` has called it
    return recommender.model, dataclasses.replace(loop.result, params=recommender.params)


def validation_metrics(problem: Problem, model: NxtPost, params: Params) -> Mapping[str, float]:
    """Rank the validation targets among all items: what epochs are selected by."""
    queries = problem.split.validation
    return score(problem, model, params=params, queries=queries, bootstrap=0).values


def score(
    problem: Problem,
    model: NxtPost,
    *,
    params: Params,
    queries: Queries,
    bootstrap: int = 1000,
    **options: Any,
) -> Metrics:
    """Rank the targets of queries by a trained model; options as in `ranking.evaluate`.

    A model with trends is asked at `query_times`, that of a query's last event unless told; another
    one reads no moments.
    """
    params = own_copy(params)
    trends = None
    if not model.config.trends:
        options.pop("query_times", None)
    else:
        log = problem.split.train if problem.live is None else problem.live
        trends = Trends.of(log, step=model.config.trend_step)
        options = {"query_times": query_times(queries)} | options
    with alone():
        content = None if problem.content is None else jnp.asarray(problem.content)
        scores = nxtpost_jax.model_scores(model, params, content=content, trends=trends)
        options |= {"max_len": model.config.max_len, "bootstrap": bootstrap}
        return rank(problem, scores, queries=queries, **options)
