"""NxtPost's own metrics: recall within a batch of users, KNN hits, and Wide & Deep beside them.

After arXiv 2202.03645: a label counts as found if it is among the K best of the labels of 128
users; Wide & Deep is the paper's baseline.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import nxtpost_jax
from experiments.harness.run_folder import Run
from experiments.loop.train_step import Params
from experiments.loop.training import train
from experiments.retrieval.towers import encode_towers
from experiments.tasks.next_item import Problem
from experiments.tasks.nxtpost_training import NxtPostOptions
from nxtpost_jax import NxtPost
from nxtpost_jax.evaluation import wide_deep
from nxtpost_jax.evaluation.batch_metrics import batch_ranks, knn_hits

K = 10
BATCH = 128  # users that batch recall ranks against each other
WIDE_DEEP_EPOCHS = 20


def batch_recalls(
    scores_of_batch: Callable[[np.ndarray, np.ndarray], jax.Array],
    labels_Qxm: np.ndarray,
    *,
    seed: int,
) -> dict[str, float]:
    """Rank the labels of drawn batches of users against each other.

    Args:
      scores_of_batch: maps rows [B] and labels int32[B] to scores f32[B, B].
      labels_Qxm: int32[Q, m], what follows each history.
      seed: draws the batches; users beyond the last whole batch are left out.

    Returns:
      "batch_recall@10" of the next item, and the mean over the next m.
    """
    queries, m = labels_Qxm.shape
    size = min(BATCH, queries)
    order = np.random.default_rng(seed).permutation(queries)[: queries // size * size]
    hits_m, counts_m = np.zeros(m), np.zeros(m)
    for rows in order.reshape(-1, size):
        for j in range(m):
            labels = labels_Qxm[rows, j]
            ranks = np.asarray(batch_ranks(scores_of_batch(rows, labels), labels))
            hits_m[j] += ((ranks > 0) & (ranks <= K)).sum()
            counts_m[j] += (ranks > 0).sum()
    recalls_m = hits_m / np.maximum(counts_m, 1)
    return {f"batch_recall@{K}": recalls_m[0], f"batch_recall@{K} of m": recalls_m.mean()}


def paper_metrics(
    problem: Problem, model: NxtPost, *, params: Params, labels_Qxm: np.ndarray, seed: int
) -> dict[str, float]:
    """Compute batch recall and KNN hits of the test queries: floats by name."""
    towers = encode_towers(problem, model, params=params)
    users_QxD = towers.encode(problem.split.test)

    def scores(rows, labels):
        items_BxD = jnp.take(towers.item_vectors, np.maximum(labels, 0), axis=0)
        return users_QxD[rows] @ items_BxD.T

    wanted = {f"knn_hits@{K}": labels_Qxm[:, :1], f"knn_hits@{K} of m": labels_Qxm}
    found = {
        name: np.asarray(knn_hits(users_QxD, towers.item_vectors, labels_Bxm=labels, k=K))
        for name, labels in wanted.items()
    }
    means = {name: float(hits[hits >= 0].mean()) for name, hits in found.items()}
    return batch_recalls(scores, labels_Qxm, seed=seed) | means


def train_wide_deep(
    run: Run, problem: Problem, *, labels_Qxm: np.ndarray, options: NxtPostOptions, mesh: Mesh
) -> dict[str, float]:
    """Train the paper's baseline and rank the test users' batches by it."""
    content = None if problem.content is None else jnp.asarray(problem.content)
    model = wide_deep.WideDeep(problem.num_items)
    rows = {"max_len": options.model.max_len, "batch_size": options.batch_size}
    batches = functools.partial(
        nxtpost_jax.train_batches, problem.split.train, seed=options.seed, **rows
    )
    first = next(iter(batches(epoch=0)))
    result = train(
        run,
        stage="wide_deep",
        init_params=lambda key: model.init(key, first["items"], first["labels"][:, 0], content)[
            "params"
        ],
        loss=lambda params, batch, key: wide_deep.loss(model, params, batch, content, key),
        tx=optax.adamw(options.adamw_rate),
        batches=lambda epoch: batches(epoch=epoch),
        epochs=min(WIDE_DEEP_EPOCHS, options.epochs),
        steps_per_epoch=nxtpost_jax.steps_per_epoch(problem.split.train, **rows),
        seed=options.seed,
        mesh=mesh,
    )
    histories = nxtpost_jax.pad_histories(problem.split.test.histories, options.model.max_len)

    def scores(rows, labels):
        items_BxL = histories["items"][rows]
        return wide_deep.score_matrix(
            model, result.params, items_BxL=items_BxL, labels_B=labels, content=content
        )

    return batch_recalls(scores, labels_Qxm, seed=options.seed)
