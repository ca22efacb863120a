"""Searchers under one protocol (`hsnn_jax.cost_curves.Searcher`): exact, HSNN, re-ranked.

All search for `Requests`, leave out what a user has met before, and say what they scored. A dot
product of width d counts as 2 d operations everywhere; a network by XLA's count, its user tower
included, once a request.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.retrieval.dealing import over_processes
from hsnn_jax import LTIConfig, Retriever, Towers
from hsnn_jax.chunks import by_chunks
from hsnn_jax.cost_curves import Found, Measured, Searcher, measure
from hsnn_jax.descent.search import brute_force
from hsnn_jax.lists.index import Index, representative_features
from hsnn_jax.monn.network import MoNNScorer, module_flops
from hsnn_jax.monn.scorers import dot, pair_flops
from hsnn_jax.top_k import top_k

Array = jax.Array | np.ndarray
Encode = Callable[["Requests"], Any]


class Requests(NamedTuple):
    """What B users ask, and what is known of them.

    Attributes:
      users: vectors, float32 [B, d], or what the searchers read, a pytree of [B, ...].
      exclude: the items not to return, int32 [B, E], -1 after.
      met: for a cross, the items that they met, int32 [B, L], -1 after, latest first where they
        have an order.
      allowed: all that `exclude` leaves, int32 [B, A], -1 after, where it leaves few: a searcher
        may read this instead.
    """

    users: Any
    exclude: np.ndarray
    met: np.ndarray | None = None
    allowed: np.ndarray | None = None

    def rows(self, index: slice | np.ndarray) -> Requests:
        """Return some of the requests, by an index or a slice."""
        return Requests(*jax.tree.map(lambda leaf: leaf[index], tuple(self)))


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A scorer with its items encoded.

    Attributes:
      name: in tables.
      scorer, params: see `hsnn_jax.descent.search.search`.
      items: pytree of [n, ...], what the scorer reads of items.
      encode_users: `Requests` to the pytree that the scorer reads of users.
      encode_nodes: node vectors [K, d] to what the scorer reads of items; None where a node is
        scored as the item nearest to it.
      user_flops: of `encode_users`, a user.
    """

    name: str
    scorer: Any
    params: Any
    items: Any
    encode_users: Encode
    encode_nodes: Callable[[Any], Any] | None
    user_flops: float = 0.0

    def features_of_nodes(self, index: Index) -> Any:
        """Return what the scorer reads of an index's nodes, a pytree of [K, ...]."""
        if self.encode_nodes is not None:
            return self.encode_nodes(index.nodes)
        return representative_features(index, self.items)


def dot_model(item_vectors: Array) -> Model:
    """Return the inner product as a model."""
    items = jnp.asarray(item_vectors)
    return Model("dot", dot, None, items, lambda asked: jnp.asarray(asked.users), jnp.asarray)


def monn_model(
    name: str, scorer: MoNNScorer, *, params: Any, users: Any, items: Any, encode_users: Encode
) -> Model:
    """Return a MoNN as a model; see `Model`.

    A node is an item of the node's vectors where items are their vectors alone, as in the two
    tower; else it is scored as the item nearest to it.

    Args:
      name: in tables.
      scorer: of one of the MoNN's tasks.
      params: of the MoNN.
      users, items: encoded, pytrees of [B, ...] and [n, ...].
      encode_users: requests to the pytree that the scorer reads.
    """
    flops = user_tower_flops(scorer, params, users=users, items=items)
    return Model(name, scorer, params, items, encode_users, _nodes_as_items(items), flops)


def _nodes_as_items(items: dict[str, Array]) -> Callable[[Any], Any] | None:
    if set(items) != {"vectors"}:
        return None
    shape = items["vectors"].shape[1:]
    return lambda nodes: {"vectors": jnp.reshape(nodes, (-1, *shape))}


def user_tower_flops(scorer: MoNNScorer, params: Any, *, users: Any, items: Any) -> float:
    """Count the user tower alone: a search counts itself what the scorer does once a user."""
    per_user, _ = pair_flops(scorer, params, users=users, items=items)
    return module_flops(scorer.config)["user"] - per_user


@dataclasses.dataclass
class Exact:
    """Every item is scored."""

    name: str
    model: Model

    def build(self) -> None:
        """Do nothing: there is no index."""

    @over_processes
    def search(self, requests: Requests, k: int, *, budget: int) -> Found:
        """See `Searcher`; the budget is not read."""
        del budget
        model = self.model
        users = model.encode_users(requests)
        found = brute_force(
            model.scorer,
            model.params,
            items=model.items,
            users=users,
            k=k,
            exclude=jnp.asarray(requests.exclude),
        )
        flops = float(found.flops[0]) + model.user_flops
        return Found(np.asarray(found.ids), float(found.items_scored[0]), flops)


def measure_all(
    model: Model,
    searchers: Iterable[Searcher],
    *,
    requests: Requests,
    k: int,
    budgets: Sequence[int],
    truth: np.ndarray,
) -> tuple[Measured, dict[str, list[Measured]]]:
    """Measure exact search by a model, and whatever approximates it at every budget.

    Args:
      model: whose exact answers are looked for.
      searchers: built here, one after the other.
      requests, k: what is asked; how many items.
      budgets: numbers of items.
      truth: int [B, w], held-out items, -1 after.

    Returns:
      (of exact search, the points of each searcher by its name).
    """
    exact = Exact("exact", model)
    ids = exact.search(requests, k, budget=0).ids
    own = measure(exact, requests, k=k, budgets=[0], exact=ids, truth=truth, warm=True)[0]
    curves = {}
    for searcher in searchers:
        searcher.build()
        curves[searcher.name] = measure(
            searcher, requests, k=k, budgets=budgets, exact=ids, truth=truth
        )
        print(f"{model.name}, {searcher.name}: measured", flush=True)
    return own, curves


def truth_of(point: Measured) -> np.ndarray:
    """Return the recall of held-out items of every user, float64 [B].

    Raises:
      ValueError: it was measured without any.
    """
    if point.truth is None:
        raise ValueError("truth: expected a measure of held-out items, found None")
    return point.truth


def recall_curve(points: Sequence[Measured]) -> list[tuple[float, float]]:
    """Return the cost-recall points: items scored, mean recall of the exact answer."""
    return [(point.items_scored, float(np.nanmean(point.recall))) for point in points]


@dataclasses.dataclass
class HSNN:
    """A `Retriever`: the items of the best nodes, by one model or by a model a level.

    Its towers find everything encoded, users by the request and items at the build.

    Attributes:
      name: in tables.
      model: scores items.
      item_vectors, nodes: float [n, d], [K, d].
      slack: see `Retriever`.
      router: scores the nodes; by default the model of the items. It reads the same requests.
    """

    name: str
    model: Model
    item_vectors: Any
    nodes: Any
    slack: float = 1.5
    router: Model | None = None
    traced_budget: ClassVar[bool] = True
    _built: Retriever | None = dataclasses.field(default=None, init=False)

    def build(self) -> None:
        """Fill the lists, and encode the nodes."""
        models, config = self._models(), LTIConfig(num_nodes=len(self.nodes))
        nodes, items = jnp.asarray(self.nodes), {"vectors": self.item_vectors}
        if self._is_plain:
            retriever, items = Retriever(config, slack=self.slack), self.model.items
        else:
            towers = tuple(map(_encoded_before, models, range(len(models))))
            params = tuple(model.params for model in models)
            given: dict[str, Any] = {"model": towers[0], "params": params[0]}
            if self.router is not None:
                nodes, given = (nodes,), {"model": towers, "params": {"models": params}}
            retriever = Retriever(config, slack=self.slack, **given)
            items["encoded"] = tuple(model.items for model in models)
        retriever.nodes = nodes
        retriever.build_index(items)
        self._built = retriever

    @property
    def _is_plain(self):
        """Whether inner products of vectors score everything, for which no model is needed."""
        return self.router is None and self.model.scorer is dot

    def _models(self) -> tuple[Model, ...]:
        return (self.model,) if self.router is None else (self.router, self.model)

    @property
    def retriever(self) -> Retriever:
        """What searches, once it is built."""
        if self._built is None:
            raise ValueError(f"{self.name}: expected build() before, found none")
        return self._built

    @property
    def least_budget(self) -> int:
        """The capacity of a list."""
        return int(self.retriever.stats()["capacity"])

    @over_processes
    def search(self, requests: Requests, k: int, *, budget: int) -> Found:
        """See `Searcher`; at least one list is scored."""
        retriever, models = self.retriever, self._models()
        encoded = tuple(model.encode_users(requests) for model in models)
        users = encoded[0] if self._is_plain else {"encoded": encoded}
        answer = retriever.search(users, k, budget=budget, exclude=requests.exclude)
        flops = float(answer.flops.mean()) + sum(model.user_flops for model in models)
        return Found(answer.ids.astype(np.int32), float(answer.items_scored.mean()), flops)


def _encoded_before(model: Model, level: int) -> Towers:
    """Return the towers of a level that is given what all levels' models have encoded."""
    nodes = model.encode_nodes
    return Towers(
        users=_at_level(level),
        items=_at_level(level),
        scorer=model.scorer,
        item_vectors=_vectors,
        nodes=None if nodes is None else lambda params, vectors: nodes(vectors),
        name=model.name,
    )


@functools.cache
def _at_level(level):
    return lambda params, given: given["encoded"][level]


def _vectors(params, given):
    return given["vectors"]


@dataclasses.dataclass
class Reranked:
    """The best candidates of another searcher, ordered by a model.

    A budget of b re-ranks the best b / `scanned_per_ranked` candidates, at least `least` k.
    Items scored are those that the other searcher scans where it scans a part of them; after a
    scan of everything, the candidates.
    """

    name: str
    candidates: Searcher
    model: Model
    scanned_per_ranked: int = 8
    least: int = 4

    def build(self) -> None:
        """Build the other searcher."""
        self.candidates.build()

    def search(self, requests: Requests, k: int, *, budget: int) -> Found:
        """See `Searcher`."""
        items = jax.tree.leaves(self.model.items)[0].shape[0]
        count = min(items, max(self.least * k, budget // self.scanned_per_ranked))
        found = self.candidates.search(requests, count, budget=budget)
        users = self.model.encode_users(requests)
        ids = rerank(self.model, users, candidates=found.ids, k=k)
        per_user, per_item = pair_flops(
            self.model.scorer, self.model.params, users=users, items=self.model.items
        )
        flops = found.flops + self.model.user_flops + per_user + per_item * count
        scored = count if isinstance(self.candidates, Exact) else found.items_scored
        return Found(ids, scored, flops)


def rerank(model: Model, users: Any, *, candidates: Array, k: int) -> np.ndarray:
    """Order candidates int [B, M], -1 for none, by a model: the best k, int32 [B, k]."""
    ids = jnp.asarray(candidates, jnp.int32)
    return np.asarray(_rerank(model.params, model.items, users, ids, scorer=model.scorer, k=k))


@functools.partial(jax.jit, static_argnames=("scorer", "k"))
def _rerank(params, items, users, ids, *, scorer, k):
    size = sum(int(np.prod(x.shape[1:])) for x in jax.tree.leaves(items))

    def of_chunk(users, ids):
        features = jax.tree.map(lambda x: x[jnp.maximum(ids, 0)], items)
        scores = scorer(params, users, features)
        return top_k(jnp.where(ids >= 0, scores, -jnp.inf), ids, k=k)[0]

    return by_chunks(of_chunk, ids.shape[1] * size, users, ids)
