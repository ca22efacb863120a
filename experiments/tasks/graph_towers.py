"""User and item vectors from the graph of who took what: in closed form, or trained.

A is the adjacency of users and items, divided by the roots of both degrees.

`spectral_towers`: items are the leading right singular vectors of A times the root of their degree,
a user is the sum over the items taken, in the same weights: an ideal low-pass filter of the
graph. Nothing is trained, popularity is in the items' lengths, and a user's vector without one of
the items is a subtraction.

`train_towers`: unit vectors, the mean over layers of E, AE, AAE, ...; only E is learned, by a
sampled softmax of cosines. It starts from the singular vectors, so that few steps suffice. A step
propagates the whole graph (0.1 s a layer and direction at 810,000 pairs and width 64 on one slow
core, as fast as scipy's sparse product), hence batches are large. The gradient of a propagation
is a propagation.

Sources: Shen et al. 2021, "How Powerful is Graph Convolution for Recommendation?" (GF-CF); He et
al. 2020, "LightGCN"; Wu et al. 2022, "On the Effectiveness of Sampled Softmax Loss for Item
Recommendation".
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from sklearn.utils.extmath import randomized_svd

from experiments.harness.run_folder import Run
from experiments.loop.training import train
from experiments.tasks.pairs import PairProblem, Pairs
from hsnn_jax.cost_curves import recall
from hsnn_jax.descent.search import brute_force
from hsnn_jax.monn.losses import sampled_softmax
from hsnn_jax.monn.scorers import dot, unit

K = 20  # recall is taken at this cut


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

    @functools.cached_property
    def user_degrees(self) -> np.ndarray:
        """Edges of each user, float32 [num_users]."""
        return np.bincount(self.users, minlength=self.num_users).astype(np.float32)

    @functools.cached_property
    def item_degrees(self) -> np.ndarray:
        """Edges of each item, float32 [num_items]."""
        return np.bincount(self.items, minlength=self.num_items).astype(np.float32)


def make_graph(pairs: Pairs, *, num_users: int, num_items: int) -> Graph:
    """Normalise the pairs into a graph; nodes without an edge get nothing from it."""
    degrees = [np.bincount(pairs.users, minlength=num_users)[pairs.users]]
    degrees += [np.bincount(pairs.items, minlength=num_items)[pairs.items]]
    weights = (1 / np.sqrt(degrees[0] * degrees[1].astype(np.float64))).astype(np.float32)
    order = np.lexsort((pairs.users, pairs.items))
    edges = (pairs.users, pairs.items, weights)
    both = (*edges, *(x[order] for x in edges))
    return Graph(*map(jnp.asarray, both), num_users=num_users, num_items=num_items)


def graph_of(problem: PairProblem, pairs: Pairs) -> Graph:
    """Return the graph of some pairs, over all users and items of the problem."""
    return make_graph(pairs, num_users=problem.num_users, num_items=problem.num_items)


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


def singular_vectors(graph: Graph, width: int, *, seed: int):
    """Return (u [num_users, r], s [r], v [num_items, r]), A's leading ones, r <= width."""
    import scipy.sparse  # comes with scikit-learn

    shape = (graph.num_users, graph.num_items)
    weights, users, items = map(np.asarray, (graph.weights, graph.users, graph.items))
    matrix = scipy.sparse.csr_matrix((weights, (users, items)), shape=shape)
    rank = min(width, min(shape) - 1)
    u, s, vt = randomized_svd(matrix, rank, n_iter=4, random_state=seed)
    return u, s, vt.T


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


@dataclasses.dataclass(frozen=True, eq=False)
class SpectralTowers:
    """Vectors in closed form.

    Attributes:
      basis: float32 [num_items, r], right singular vectors of the training pairs' A, scaled so
        that items have a root mean square length of 1 in training.
      train: the graph of the training pairs: nothing in it knows validation.
      known: of validation's pairs too, as they are known when the test is taken.
    """

    basis: np.ndarray
    train: Graph
    known: Graph

    def users(self, graph: Graph) -> np.ndarray:
        """Return unit vectors float32 [num_users, r] by the pairs of a graph."""
        return np.asarray(unit(self._sums(graph)))

    def items(self, graph: Graph) -> np.ndarray:
        """Return float32 [num_items, r], longer where the item was taken more often."""
        return np.sqrt(graph.item_degrees)[:, None] * self.basis

    def users_without(self, users, items) -> np.ndarray:
        """Return unit vectors [b, r] of users as if an item had not been taken.

        That is how the users of test pairs look; in a training pair's user the item shows.

        Args:
          users, items: int [b], training pairs.
        """
        weights = 1 / np.sqrt(self.train.user_degrees[users] * self.train.item_degrees[items])
        own = weights[:, None] * self.basis[items]
        return np.asarray(unit(self._train_sums[users] - own))

    def _sums(self, graph: Graph) -> np.ndarray:
        zero = jnp.zeros((graph.num_users, self.basis.shape[1]))
        return np.asarray(propagate(graph, zero, jnp.asarray(self.basis))[0])

    @functools.cached_property
    def _train_sums(self):
        return self._sums(self.train)


def spectral_towers(problem: PairProblem, width: int, *, seed: int) -> SpectralTowers:
    """Take the towers of a width, or of the rank where that is less."""
    train, known = (graph_of(problem, part) for part in (problem.train, problem.known))
    _, _, v = singular_vectors(train, width, seed=seed)
    squares = train.item_degrees @ v**2
    return SpectralTowers((v / np.sqrt(squares.sum() / len(v))).astype(np.float32), train, known)


def validation(problem: PairProblem, *, seed: int):
    """Draw users; return them and a function from their and the items' vectors to recall."""
    rows = problem.users_with(problem.validation, most=2000, seed=seed)
    seen, wanted = problem.train.padded(rows), problem.validation.padded(rows)

    def measure(users, items) -> float:
        found = brute_force(
            dot, None, items=items, users=users, k=min(K, problem.num_items), exclude=seen
        )
        return recall(found.ids, wanted)

    return rows, measure


def train_towers(
    run: Run,
    problem: PairProblem,
    config: GraphConfig,
    *,
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
    steps = min(config.evaluate_every, config.steps)
    rows, measure = validation(problem, seed=seed)

    @jax.jit
    def asked(params):
        users, items = smoothed(graph, params, config.layers)
        return users[rows], items

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
        evaluate=lambda params: {f"recall@{K}": measure(*asked(params))},
        select=f"recall@{K}",
        patience=config.patience,
    )
    params = jax.tree.map(jnp.asarray, jax.device_get(result.params))
    known = graph_of(problem, problem.known)
    return tuple(map(np.asarray, smoothed(known, params, config.layers)))
