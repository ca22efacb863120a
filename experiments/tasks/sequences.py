"""Next items of users, by NxtPost's encoder with ids, as a task for optimizers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nxtpost_jax
from experiments.loop.train_step import Params
from experiments.tasks.learning_task import LearningTask, Score
from experiments.tasks.next_item import Problem, score
from nxtpost_jax import NxtPost, NxtPostConfig, Objective, Queries
from nxtpost_jax.events.sequences import pad_histories

OBJECTIVE = Objective(loss="full_softmax")
TEMPERATURE = 0.05  # as the preset sasrec of experiments.nxtpost, chosen on MovieLens-1M
DROPOUT = 0.4  # at .2 the validation loss of MovieLens-100k rises again before the end


def sequence_task(
    problem: Problem, *, width: int, layers: int, length: int, batch_size: int
) -> LearningTask:
    """Pose the softmax over all items, each state against the item that follows it.

    The loss of validation and test is that of the target given the history; the other figure is
    NDCG@10 among the items that the user has not seen.
    """
    config = NxtPostConfig.sasrec(
        d_model=width,
        num_layers=layers,
        max_len=length,
        similarity="cosine",
        temperature=TEMPERATURE,
        dropout=DROPOUT,
        id_dropout=0.0,
    )
    model = NxtPost(config, num_items=problem.num_items)
    train_part, candidates = problem.split.train, jnp.asarray(problem.candidates)
    rows: dict[str, Any] = {"max_len": length, "batch_size": batch_size}
    per_pass = nxtpost_jax.steps_per_epoch(train_part, **rows)

    def passes(number: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
        return nxtpost_jax.train_batches(train_part, seed=seed, epoch=number, **rows)

    def batches(first: int, count: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
        for number in range(first // per_pass, (first + count - 1) // per_pass + 1):
            for step, batch in enumerate(passes(number, seed), start=number * per_pass):
                if first <= step < first + count:
                    yield batch

    blank = next(passes(0, 0))

    def loss(params, batch, key) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        return nxtpost_jax.loss(
            model,
            params,
            batch=batch,
            content=None,
            key=key,
            objective=OBJECTIVE,
            candidates=candidates,
        )

    split = problem.split
    return LearningTask(
        init_params=lambda key: model.init(key, blank, None)["params"],
        loss=loss,
        batches=batches,
        validate=_score(problem, model, split.validation),
        test=_score(problem, model, split.test),
        chance=math.log(len(problem.candidates)),
        figure="ndcg@10",
        intro=f"{problem.protocol.data}: NxtPost by ids, {layers} layers, width {width}, histories "
        f"of {length}, {batch_size} windows per step, a softmax over all items. "
        f"{problem.protocol.describe()}",
        split="every user's last item is test, the one before validation",
    )


def _score(problem: Problem, model: NxtPost, queries: Queries) -> Score:
    """Return the function from parameters to loss and NDCG@10 of queries."""
    histories = pad_histories(queries.histories, model.config.max_len)
    known = np.isin(queries.targets, problem.candidates)  # training saw nothing of the others
    targets = jnp.asarray(queries.targets)

    @jax.jit
    def entropies(params: Params) -> jax.Array:
        scores = nxtpost_jax.model_scores(model, params)(histories)
        scores = scores[:, problem.candidates] / model.config.temperature
        place = jnp.searchsorted(problem.candidates, targets)
        own = jnp.take_along_axis(scores, place[:, None], axis=1, mode="clip")[:, 0]
        return jax.nn.logsumexp(scores, axis=1) - own

    def figures(params: Params) -> dict[str, float]:
        ranked = score(problem, model, params=params, queries=queries, bootstrap=0)
        loss = float(np.asarray(entropies(params))[known].mean())
        return {"loss": loss, "ndcg@10": ranked["ndcg@10"]}

    return figures
