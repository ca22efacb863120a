"""How every scorer of users and items is trained: a sampled softmax, selected on validation.

A step draws a batch, and negatives that the whole batch shares; a batch depends on the seed and
the step alone. Every so many steps validation is asked, and the best parameters are returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.harness.run_folder import Run
from experiments.loop.train_step import InitParams, Loss
from experiments.loop.training import Evaluate, TrainResult, train
from hsnn_jax.monn.losses import sampled_softmax
from hsnn_jax.monn.scorers import score_all

Draw = Callable[[np.random.Generator], Mapping[str, np.ndarray]]


def train_scorer(
    run: Run,
    loss: Loss,
    *,
    stage: str,
    init_params: InitParams,
    draw: Draw,
    tx: optax.GradientTransformation,
    steps: int,
    evaluate_every: int,
    evaluate: Evaluate,
    select: str,
    seed: int,
    mesh: Mesh,
    stream: int = 0,
    patience: int | None = None,
) -> TrainResult:
    """Train a scorer as one stage of a run; the parameters with the best validation metric.

    Args:
      run: holds curves and checkpoints.
      loss: maps (params, batch, key) to a scalar, such as `softmax_of`, and a dict of scalars.
      stage, init_params, tx, mesh: see `training.train`.
      draw: draws a batch by a generator.
      steps: that are taken at most: whole rounds of `evaluate_every`, at least one.
      evaluate_every: steps between evaluations.
      evaluate: maps parameters to validation metrics.
      select: the metric whose largest value selects.
      seed: of initial parameters, batches and steps.
      stream: tells batches apart that share a seed.
      patience: evaluations in a row without a new best that end the training; None: all are taken.
    """
    every = min(evaluate_every, steps)

    def batches(epoch: int) -> Iterator[Mapping[str, np.ndarray]]:
        rng = np.random.default_rng([seed, epoch, stream])
        for _ in range(every):
            yield draw(rng)

    return train(
        run,
        stage=stage,
        init_params=init_params,
        loss=loss,
        tx=tx,
        batches=batches,
        epochs=max(1, steps // every),
        steps_per_epoch=every,
        seed=seed,
        mesh=mesh,
        evaluate=evaluate,
        select=select,
        patience=patience,
    )


def softmax_of(
    scorer: Callable[[Any, Any, Any], jax.Array],
    params: Any,
    *,
    users: Any,
    own: Any,
    others: Any,
    own_ids: jax.Array,
    other_ids: jax.Array,
    log_expected: jax.Array | None = None,
) -> jax.Array:
    """Return the mean sampled softmax of B users' items among N that all of them share.

    Args:
      scorer, params: see `hsnn_jax.descent.search.search`.
      users, own: encoded, pytrees of [B, ...].
      others: encoded items, a pytree of [N, ...].
      own_ids, other_ids: int [B], [N]; a user's item among the others is no negative.
      log_expected: float [n_items], log of how often each is drawn into the N, up to a constant;
        None for uniform draws. Subtracted from all logits, it leaves to them the items' own odds,
        whatever the draws (Jean et al. 2015, "On Using Very Large Target Vocabulary").
    """
    positive = scorer(params, users, jax.tree.map(lambda x: x[:, None], own))[:, 0]
    negative = score_all(scorer, params, users=users, items=others)
    of_others = None
    if log_expected is not None:
        positive, of_others = positive - log_expected[own_ids], log_expected[None, other_ids]
    kept = own_ids[:, None] != other_ids[None, :]
    return sampled_softmax(positive, negative, kept_BxN=kept, log_expected_BxN=of_others)
