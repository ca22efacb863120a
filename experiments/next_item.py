"""Next-item recommendation as experiments pose it: data, split, content, baselines, training."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import nxtpost_jax
import shampoo_jax
from experiments.content import content_vectors
from experiments.errors import InputError
from experiments.interactions import Interactions
from experiments.library_calls import package_split
from experiments.run_folder import Run
from experiments.training import TrainResult, train
from nxtpost_jax import Metrics, NxtPost, NxtPostConfig, Protocol, Queries, Sequences, Split
from nxtpost_jax import baselines as baseline_models


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
    """

    split: Split
    num_items: int
    content: np.ndarray | None
    candidates: np.ndarray
    protocol: Protocol


def pose(interactions: Interactions, *, content_dim: int, seed: int = 0) -> Problem:
    """Split interactions and embed the items' texts, fitted on the training period.

    Users' last two events are test and validation; where users have groups (packages of library
    calls), whole groups are.

    Raises:
      InputError: the data has no order, or no user is long enough to be asked about.
    """
    if not interactions.ordered:
        raise InputError(f"{interactions.name}: expected events in an order, found sets")
    sequences = Sequences.from_events(
        interactions.users,
        interactions.items,
        times=interactions.timestamps,
        num_users=interactions.n_users,
    )
    grouped = interactions.groups is not None
    split = nxtpost_jax.leave_one_out(sequences)
    if grouped:
        split = _split_by_group(interactions, sequences)
    for name in ("validation", "test"):
        if not len(getattr(split, name)):
            raise InputError(
                f"{interactions.name}: expected users with at least 3 events for {name}, found none"
            )
    known = np.zeros(interactions.n_items, bool)
    known[split.train.items] = True
    content, has_content = content_vectors(interactions, known, dim=content_dim, seed=seed)
    rule = "whole packages are validation or test; a function's last call is its target"
    # A function may call what it called before: seen items stay candidates there.
    own = {"split": rule, "seen_filter": False} if grouped else {}
    protocol = Protocol(
        data=interactions.name,
        data_hash=interactions.sha256,
        notes="; ".join(interactions.notes),
        **own,
    )
    return Problem(
        split=split,
        num_items=interactions.n_items,
        content=content if has_content.any() else None,
        candidates=np.flatnonzero(known).astype(np.int32),
        protocol=protocol,
    )


def _split_by_group(interactions: Interactions, sequences: Sequences) -> Split:
    validation, test = package_split(interactions)
    return nxtpost_jax.by_user(sequences, np.flatnonzero(validation), np.flatnonzero(test))


def score_baselines(problem: Problem, queries: Queries, *, max_len: int) -> dict[str, Metrics]:
    """Rank the targets by popularity, skip-3 Markov and content-KNN."""
    train_part, num_items = problem.split.train, problem.num_items
    scorers = {
        "popularity": baseline_models.popularity(train_part, num_items),
        "markov": baseline_models.markov(train_part, num_items),
    }
    if problem.content is not None:
        scorers["content_knn"] = baseline_models.content_knn(problem.content)
    evaluate = functools.partial(
        nxtpost_jax.evaluate,
        queries=queries,
        max_len=max_len,
        seen_filter=problem.protocol.seen_filter,
    )
    return {name: evaluate(scores) for name, scores in scorers.items()}


def train_nxtpost(
    run: Run,
    problem: Problem,
    config: NxtPostConfig,
    *,
    stage: str,
    tx: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    num_negatives: int,
    evaluate_every: int,
    seed: int,
    mesh: Mesh,
) -> tuple[NxtPost, TrainResult]:
    """Train both towers as one stage of a run; the epoch is selected by validation NDCG@10."""
    model = NxtPost(config, num_items=problem.num_items)
    content = None if problem.content is None else jnp.asarray(problem.content)
    candidates = jnp.asarray(problem.candidates)
    rows = {"max_len": config.max_len, "batch_size": batch_size}
    batches = functools.partial(nxtpost_jax.train_batches, problem.split.train, seed=seed, **rows)
    first = next(iter(batches(epoch=0)))

    def init_params(key):
        return model.init(key, first, content)["params"]

    def loss(params, batch, key):
        return nxtpost_jax.loss(
            model, params, batch, content, key, num_negatives=num_negatives, candidates=candidates
        )

    result = train(
        run,
        stage=stage,
        init_params=init_params,
        loss=loss,
        tx=tx,
        batches=lambda epoch: batches(epoch=epoch),
        epochs=epochs,
        steps_per_epoch=nxtpost_jax.steps_per_epoch(problem.split.train, **rows),
        seed=seed,
        mesh=mesh,
        evaluate=lambda params: validation_metrics(problem, model, params),
        evaluate_every=evaluate_every,
        select="ndcg@10",
        opt_state_sharding=shampoo_jax.state_sharding,
    )
    return model, result


def validation_metrics(problem: Problem, model: NxtPost, params) -> Mapping[str, float]:
    """Rank the validation targets among all items."""
    return score(problem, model, params, problem.split.validation, bootstrap=0).values


def score(
    problem: Problem, model: NxtPost, params, queries: Queries, *, bootstrap: int = 1000
) -> Metrics:
    """Rank the targets of queries by a trained model."""
    content = None if problem.content is None else jnp.asarray(problem.content)
    scores = nxtpost_jax.model_scores(model, params, content)
    return nxtpost_jax.evaluate(
        scores,
        queries,
        max_len=model.config.max_len,
        seen_filter=problem.protocol.seen_filter,
        bootstrap=bootstrap,
    )


def ndcg_difference(one: Metrics, other: Metrics) -> tuple[float, float]:
    """Return the mean difference in NDCG@10 over the same queries, and its standard error."""
    gains = [np.where(m.ranks <= 10, 1 / np.log2(m.ranks + 1.0), 0.0) for m in (one, other)]
    difference = gains[0] - gains[1]
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))
