"""User and item vectors from the graph of who took what, in closed form.

A is the adjacency of users and items, divided by the roots of both degrees.

`spectral_towers`: items are the leading right singular vectors of A times the root of their degree,
a user is the sum over the items taken, in the same weights: an ideal low-pass filter of the
graph. Nothing is trained, popularity is in the items' lengths, and a user's vector without one of
the items is a subtraction.

`propagate` is one layer of A, differentiable: 0.1 s per layer and direction at 810,000 pairs and
width 64 on one slow core, as fast as scipy's sparse product. The gradient of a propagation is a
propagation.

Source: Shen et al. 2021, "How Powerful is Graph Convolution for Recommendation?" (GF-CF).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.tasks.pairs import PairProblem, Pairs
from hsnn_jax.cost_curves import recall
from hsnn_jax.descent.search import brute_force
from hsnn_jax.monn.scorers import dot, unit

K = 20  # recall is taken at this cut

Array = jax.Array | np.ndarray
Both = tuple[jax.Array, jax.Array]  # vectors of users and of items


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


def propagate(graph: Graph, both: Both) -> Both:
    """Return (A items, A^T users) of users and items float [n, d]: one layer."""

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
    return layer(*both)


def singular_vectors(
    graph: Graph, width: int, *, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (u [num_users, r], s [r], v [num_items, r]), A's leading ones, r <= width."""
    import scipy.sparse  # comes with scikit-learn
    from sklearn.utils.extmath import randomized_svd  # a third of a command's start

    shape = (graph.num_users, graph.num_items)
    weights, users, items = map(np.asarray, (graph.weights, graph.users, graph.items))
    matrix = scipy.sparse.csr_matrix((weights, (users, items)), shape=shape)
    rank = min(width, min(shape) - 1)
    u, s, vt = randomized_svd(
        matrix,
        rank,
        n_iter=4,  # pyright: ignore[reportArgumentType]  # typed as its default, "auto"
        random_state=seed,
    )
    return u, s, vt.T


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

    def users_without(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
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
        return np.asarray(propagate(graph, (zero, jnp.asarray(self.basis)))[0])

    @functools.cached_property
    def _train_sums(self):
        return self._sums(self.train)


def spectral_towers(problem: PairProblem, width: int, *, seed: int) -> SpectralTowers:
    """Take the towers of a width, or of the rank where that is less."""
    train, known = (graph_of(problem, part) for part in (problem.train, problem.known))
    _, _, v = singular_vectors(train, width, seed=seed)
    squares = train.item_degrees @ v**2
    return SpectralTowers((v / np.sqrt(squares.sum() / len(v))).astype(np.float32), train, known)


def validation(
    problem: PairProblem, *, seed: int
) -> tuple[np.ndarray, Callable[[Array, Array], float]]:
    """Draw users; return them and a function from their and the items' vectors to recall."""
    rows = problem.users_with(problem.validation, most=2000, seed=seed)
    seen, wanted = problem.train.padded(rows), problem.validation.padded(rows)

    def measure(users: Array, items: Array) -> float:
        found = brute_force(
            dot, None, items=items, users=users, k=min(K, problem.num_items), exclude=seen
        )
        return recall(found.ids, wanted)

    return rows, measure
