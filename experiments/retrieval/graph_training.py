"""Towers of ids that are trained on the graph of who took what.

Unit vectors, the mean over layers of E, AE, AAE, ...; only E is learned, by a sampled softmax of
cosines. It starts from the singular vectors, so that few steps suffice. A step propagates the
whole graph, hence batches are large.

Sources: He et al. 2020, "LightGCN"; Wu et al. 2022, "On the Effectiveness of Sampled Softmax Loss
for Item Recommendation".
"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.harness.run_folder import Run
from experiments.retrieval.training import softmax_of, train_scorer
from experiments.tasks.graph_towers import (
    Both,
    Graph,
    K,
    graph_of,
    propagate,
    singular_vectors,
    validation,
)
from experiments.tasks.pairs import PairProblem
from hsnn_jax.monn.scorers import dot, unit


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """Towers of ids that are trained."""

    width: int = 64
    """of the vectors"""
    layers: int = 3
    """propagations; the vectors are the mean over them and the start"""
    steps: int = 600
    """training steps at most"""
    evaluate_every: int = 50
    """steps between evaluations of the validation split"""
    batch_size: int = 8192
    """pairs a step"""
    negatives: int = 2048
    """items drawn uniformly that all pairs of a step share"""
    temperature: float = 0.1
    """of the cosines"""
    rate: float = 2e-2
    """peak learning rate of Adam; it falls to a tenth by a cosine"""
    patience: int = 4
    """evaluations in a row without a new best that end the training"""


@dataclasses.dataclass(frozen=True)
class Cosine:
    """The cosine of unit vectors over a temperature; a scorer of `softmax_of`."""

    temperature: float
    shares_items: ClassVar[bool] = True  # negatives are one matrix: a third of the time

    def __call__(self, params: None, users: jax.Array, items: jax.Array) -> jax.Array:
        """Return float [B, m] of users [B, d] and items [B, m, d] or [1, m, d]."""
        return dot(params, users, items) / self.temperature


def smoothed(graph: Graph, params: dict, *, layers: int) -> Both:
    """Return unit vectors of users and items: the mean over layers, scaled to length 1."""
    current = total = (params["users"], params["items"])
    for _ in range(layers):
        current = propagate(graph, current)
        total = jax.tree.map(jnp.add, total, current)
    return unit(total[0]), unit(total[1])


def spectral_start(graph: Graph, width: int, *, seed: int) -> dict:
    """Take the leading singular vectors of A, rows around length 1."""
    u, s, v = singular_vectors(graph, width, seed=seed)
    rng = np.random.default_rng([seed, 3])
    params = {}
    for name, vectors in (("users", u), ("items", v)):
        vectors = vectors * np.sqrt(s)[None, :]
        vectors = vectors / np.sqrt((vectors**2).sum(axis=1).mean())
        # What has no edge, or width beyond the rank, starts from a little noise.
        noise = 0.01 / np.sqrt(width) * rng.normal(size=(len(vectors), width))
        noise[:, : len(s)] += vectors
        params[name] = noise.astype(np.float32)
    return params


def train_towers(
    run: Run,
    problem: PairProblem,
    *,
    config: GraphConfig,
    stage: str,
    seed: int,
    mesh: Mesh,
) -> tuple[np.ndarray, np.ndarray]:
    """Train on the training pairs and select on validation.

    Returns:
      Unit vectors of users and items, float32 [n, width] each, propagated over the pairs of
      validation too, as they are known when the test is taken.
    """
    graph = graph_of(problem, problem.train)
    start = spectral_start(graph, config.width, seed=seed)
    rows, measure = validation(problem, seed=seed)

    @jax.jit
    def asked(params):
        users, items = smoothed(graph, params, layers=config.layers)
        return users[rows], items

    def loss(params, batch, key):
        users, items = smoothed(graph, params, layers=config.layers)
        users, own = users[batch["users"]], batch["items"]
        negatives = jax.random.randint(key, (config.negatives,), 0, problem.num_items)
        value = softmax_of(
            Cosine(config.temperature),
            None,
            users=users,
            own=items[own],
            others=items[negatives],
            own_ids=own,
            other_ids=negatives,
        )
        return value, {}

    result = train_scorer(
        run,
        loss,
        stage=stage,
        init_params=lambda key: jax.tree.map(jnp.asarray, start),
        draw=functools.partial(problem.train.draw, size=config.batch_size),
        tx=optax.adam(optax.cosine_decay_schedule(config.rate, config.steps, 0.1)),
        steps=config.steps,
        evaluate_every=config.evaluate_every,
        evaluate=lambda params: {f"recall@{K}": measure(*asked(params))},
        select=f"recall@{K}",
        seed=seed,
        mesh=mesh,
        patience=config.patience,
    )
    params = jax.tree.map(jnp.asarray, jax.device_get(result.params))
    known = graph_of(problem, problem.known)
    users, items = smoothed(known, params, layers=config.layers)
    return np.asarray(users), np.asarray(items)
