"""What `Retriever.fit` trains: the model that scores, or those of all levels."""

from typing import Any

from hsnn_jax.monn.model import Towers, sides
from hsnn_jax.serving.request import key_of
from hsnn_jax.training.joint_levels import fit_levels
from hsnn_jax.training.loop import Record, Training
from hsnn_jax.training.one_model import fit_one
from hsnn_jax.training.optimizers import Optimizer
from hsnn_jax.training.pairs import pairs_of


def fit_model(
    users: Any,
    items: Any,
    *,
    retriever: Any,
    positives: Any,
    labels: Any,
    tx: Optimizer,
    training: Training | None,
    seed: int,
) -> tuple[Any, list[Record]]:
    """Train a retriever's model from features; several of them jointly, with the nodes.

    Args:
      users: what the model reads of each pair's user, [N, ...], as it was before the pair.
      items: what it reads of all items, [n, ...].
      retriever: its `model`, `params` and `task` are read; stays as it is.
      positives: int [N], the row of each pair's item: what the user liked or, with labels, saw.
      labels: None; or [N] or [N, tasks] in [0, 1], NaN where there is none; `Towers` have one task.
      tx: an optax transform, or its word: "adamw" or "shampoo".
      training: see `Training`; None for its defaults.
      seed: of parameters, batches and negatives.

    Returns:
      (parameters, a record per validation: "step", "loss", "recall@k", "validation_loss").

    Raises:
      ValueError: there is no model, or what is given does not fit it.
      FloatingPointError: training diverged.
    """
    key_of(seed)
    if retriever.model is None:
        raise ValueError(
            "model: expected one to train, found none; nodes of vectors are learned by fit_nodes"
        )
    model, params = retriever.model, retriever.params
    several = isinstance(model, tuple)
    if several and isinstance(model[0], Towers):
        raise ValueError("model: expected MoNNConfig a level to train jointly, found Towers")
    tasks = 1 if isinstance(model, Towers) else len((model[0] if several else model).tasks)
    if not isinstance(model, Towers):
        users, items = sides(users), sides(items)
    pairs = pairs_of(users, items, positives=positives, labels=labels, num_tasks=tasks)
    options = {"pairs": pairs, "tx": tx, "training": training or Training(), "seed": int(seed)}
    options |= {"task": retriever.task}
    if several:
        return fit_levels(model, params, index=retriever.config, slack=retriever.slack, **options)
    return fit_one(model, params, **options)
