"""Small models that are trained on what the largest one says too, of pairs that nobody rated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.harness.run_folder import Run
from experiments.retrieval.kept_gain import NAMES
from experiments.retrieval.rivals import Rival
from experiments.retrieval.searchers import Exact, Requests, monn_model
from experiments.studies.rated_scorer import Scorer, ScorersConfig, model_config, train_model
from experiments.studies.tables.brute import Trained
from experiments.studies.tables.served import BATCH
from hsnn_jax.monn.losses import distillation_loss
from hsnn_jax.monn.network import MoNNScorer
from hsnn_jax.monn.scorers import score_all

WEIGHTS = (1.0, 4.0, 0.25, 16.0)  # of the teacher's loss beside the student's own


def distilling_loss(
    student: Scorer, teacher: Trained, *, weight: float, config: ScorersConfig
) -> Callable[..., Any]:
    """Return the student's loss plus the cross entropy to the teacher's odds among drawn items.

    Args:
      student: to be trained.
      teacher: whose odds of the negatives of a step, for every user of the batch, are the target.
      weight: of the cross entropy.
      config: how negatives are drawn.
    """
    params_of_teacher = jax.tree.map(jnp.asarray, teacher.params)

    def odds(scorer: Scorer, params: Any, batch: Mapping[str, Any], ids: jax.Array) -> jax.Array:
        users, items = scorer.users(params, batch), scorer.items(params, ids)
        return score_all(MoNNScorer(scorer.config, "next"), params, users=users, items=items)

    def loss(params: Any, batch: Mapping[str, jax.Array], key: jax.Array) -> Any:
        own, scalars = student.loss(params, batch, key=key, config=config)
        ids, _ = student.negatives(jax.random.fold_in(key, 1), config)
        said = odds(teacher.scorer, params_of_teacher, batch, ids)
        distance = distillation_loss(odds(student, params, batch, ids), said)
        return own + weight * distance, scalars | {"distance": distance}

    return loss


def distilled(
    run: Run,
    name: str,
    teacher: Trained,
    *,
    crosses: tuple[str, ...],
    config: ScorersConfig,
    mesh: Mesh,
) -> Rival:
    """Return a model distilled from a larger one, by brute force; the weight by validation.

    Args:
      run: whose stages keep what is trained.
      name: of the student, a size.
      teacher: of one seed, which is the student's too.
      crosses, config, mesh: of the training.
    """
    shown = f"{NAMES[name]}, distilled from {teacher.label}"
    examples = teacher.scorer.examples
    student = Scorer(model_config(name, examples, crosses=crosses), examples)

    def made(weight: float) -> Exact:
        result = train_model(
            run,
            student,
            config=config,
            stage=f"{name}-distilled-{weight:g}-{teacher.seed}",
            seed=teacher.seed,
            mesh=mesh,
            loss=distilling_loss(student, teacher, weight=weight, config=config),
        )
        params = jax.device_get(result.params)

        def encode(asked: Requests) -> Any:
            return student.encode(params, asked.users[BATCH])

        first = {BATCH: examples.histories(examples.next_liked(1)[:1])}
        one = encode(Requests(first, exclude=np.full((1, 0), -1, np.int32)))
        items = student.encode_all(params)
        scorer = MoNNScorer(student.config, "next")
        model = monn_model(
            shown, scorer, params=params, users=one, items=items, encode_users=encode
        )
        return Exact(shown, model)

    settings = {f"weight {weight:g}": (functools.partial(made, weight), 0) for weight in WEIGHTS}
    return Rival(shown, settings)
