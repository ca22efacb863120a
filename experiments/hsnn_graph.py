"""User and item vectors from ids alone: light graph propagation under a sampled softmax.

The vectors are the mean over layers of E, AE, AAE, ..., A the symmetrically normalised adjacency
of users and items; only E is learned. It starts from the leading singular vectors of A, so that
few steps suffice. A step propagates the whole graph (0.1 s a layer and direction at 810,000 pairs
and width 64 on one slow core, as fast as scipy's sparse product), hence batches are large. The
gradient of a propagation is a propagation.

Sources: He et al. 2020, "LightGCN"; Wu et al. 2022, "On the Effectiveness of Sampled Softmax
Loss for Item Recommendation".
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from sklearn.utils.extmath import randomized_svd

from experiments.hsnn_pairs import PairProblem, Pairs
from experiments.run_folder import Run
from experiments.training import TrainResult, train
from hsnn_jax.frontier import recall
from hsnn_jax.multi_task import sampled_softmax
from hsnn_jax.scorers import dot, unit
from hsnn_jax.search import brute_force

K = 20  # recall is taken at this cut


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """Towers of id-only data."""

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


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """The edges, weighted by 1 / sqrt(degree of user * degree of item), in both orders."""

    users: jax.Array  # int32 [e], ascending
    items: jax.Array
    weights: jax.Array
    users_by_item: jax.Array  # the same edges, items ascending
    items_by_item: jax.Array
    weights_by_item: jax.Array
    num_users: int
    num_items: int


def make_graph(pairs: Pairs, *, num_users: int, num_items: int) -> Graph:
    """Normalise the pairs into a graph; nodes without an edge get nothing from it."""
    degrees = [np.bincount(pairs.users, minlength=num_users)[pairs.users]]
    degrees += [np.bincount(pairs.items, minlength=num_items)[pairs.items]]
    weights = (1 / np.sqrt(degrees[0] * degrees[1].astype(np.float64))).astype(np.float32)
    order = np.lexsort((pairs.users, pairs.items))
    edges = (pairs.users, pairs.items, weights)
    both = (*edges, *(x[order] for x in edges))
    return Graph(*map(jnp.asarray, both), num_users=num_users, num_items=num_items)


def propagate(graph: Graph, users, items):
    """Return (A items, A^T users): one layer, float [n, d] each."""

    @jax.custom_vjp
    def layer(users, items):
        to_users = items[graph.items] * graph.weights[:, None]
        to_items = users[graph.users_by_item] * graph.weights_by_item[:, None]
        add = functools.partial(jax.ops.segment_sum, indices_are_sorted=True)
        return (
            add(to_users, graph.users, graph.num_users),
            add(to_items, graph.items_by_item, graph.num_items),
        )

    # The operator is symmetric; jax would scatter in the order of the other side, which is slower.
    layer.defvjp(lambda u, i: (layer(u, i), None), lambda _, gradients: layer(*gradients))
    return layer(users, items)


def smoothed(graph: Graph, params, layers: int):
    """Return unit vectors of users and items: the mean over layers, scaled to length 1."""
    current = total = (params["users"], params["items"])
    for _ in range(layers):
        current = propagate(graph, *current)
        total = jax.tree.map(jnp.add, total, current)
    return unit(total[0]), unit(total[1])


def spectral_start(graph: Graph, width: int, *, seed: int) -> dict:
    """Take the leading singular vectors of A, rows around length 1."""
    import scipy.sparse  # comes with scikit-learn

    shape = (graph.num_users, graph.num_items)
    weights, users, items = map(np.asarray, (graph.weights, graph.users, graph.items))
    matrix = scipy.sparse.csr_matrix((weights, (users, items)), shape=shape)
    rank = min(width, min(shape) - 1)
    u, s, vt = randomized_svd(matrix, rank, n_iter=4, random_state=seed)
    rng = np.random.default_rng([seed, 3])
    params = {}
    for name, vectors in (("users", u), ("items", vt.T)):
        vectors = vectors * np.sqrt(s)[None, :]
        vectors = vectors / np.sqrt((vectors**2).sum(axis=1).mean())
        # What has no edge, or width beyond the rank, starts from a little noise.
        noise = 0.01 / np.sqrt(width) * rng.normal(size=(len(vectors), width))
        noise[:, :rank] += vectors
        params[name] = noise.astype(np.float32)
    return params


class Towers(NamedTuple):
    """Unit vectors of users and items, float32 [n, width] each.

    `trained` are propagated over the training pairs alone: nothing in them knows validation.
    `served` are propagated over validation pairs too, as they are known when the test is taken.
    """

    trained: tuple[np.ndarray, np.ndarray]
    served: tuple[np.ndarray, np.ndarray]
    result: TrainResult


def train_towers(
    run: Run,
    problem: PairProblem,
    config: GraphConfig,
    *,
    stage: str,
    seed: int,
    mesh: Mesh,
) -> Towers:
    """Train on the training pairs and select on validation."""
    sizes = {"num_users": problem.num_users, "num_items": problem.num_items}
    graph = make_graph(problem.train, **sizes)
    start = spectral_start(graph, config.width, seed=seed)
    steps = min(config.evaluate_every, config.steps)

    def batches(epoch):
        return problem.train.batches(steps, config.batch_size, seed=[seed, epoch])

    def loss(params, batch, key):
        users, items = smoothed(graph, params, config.layers)
        negatives = jax.random.randint(key, (config.negatives,), 0, problem.num_items)
        u, v, n = users[batch["users"]], items[batch["items"]], items[negatives]
        positive = jnp.sum(u * v, axis=1) / config.temperature
        others = u @ n.T / config.temperature
        kept = batch["items"][:, None] != negatives[None, :]
        return sampled_softmax(positive, others, kept_BxN=kept), {}

    result = train(
        run,
        stage=stage,
        init_params=lambda key: jax.tree.map(jnp.asarray, start),
        loss=loss,
        tx=optax.adam(optax.cosine_decay_schedule(config.rate, config.steps, 0.1)),
        batches=batches,
        epochs=max(1, config.steps // steps),
        steps_per_epoch=steps,
        seed=seed,
        mesh=mesh,
        evaluate=_validation(problem, graph, config.layers, seed=seed),
        select=f"recall@{K}",
        patience=config.patience,
    )
    params = jax.tree.map(jnp.asarray, jax.device_get(result.params))
    known = make_graph(problem.known, **sizes)
    trained, served = (
        tuple(map(np.asarray, smoothed(g, params, config.layers))) for g in (graph, known)
    )
    return Towers(trained, served, result)


def _validation(problem: PairProblem, graph: Graph, layers: int, *, seed: int):
    rows = problem.users_with(problem.validation, most=2000, seed=seed)
    seen, wanted = problem.train.padded(rows), problem.validation.padded(rows)

    @jax.jit
    def vectors(params):
        users, items = smoothed(graph, params, layers)
        return users[rows], items

    def evaluate(params):
        users, items = vectors(params)
        found = brute_force(dot, None, items, users, min(K, problem.num_items), exclude=seen)
        return {f"recall@{K}": recall(found.ids, wanted)}

    return evaluate
