"""Searchers under one protocol (`hsnn_jax.cost_curves.Searcher`): exact, HSNN, faiss, re-ranked.

All search for `Requests`, leave out what a user has met before, and say what they scored. A dot
product of width d counts as 2 d operations everywhere; a network by XLA's count, its user tower
included, once a request.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.errors import InputError
from hsnn_jax.chunks import by_chunks
from hsnn_jax.cost_curves import Found, Measured, measure
from hsnn_jax.descent.descend import Level
from hsnn_jax.descent.search import brute_force, search_levels
from hsnn_jax.lists.index import Index, Tiles, build_index, pack
from hsnn_jax.monn.network import MoNNScorer, module_flops
from hsnn_jax.monn.scorers import dot, pair_flops
from hsnn_jax.top_k import top_k

_USERS = 32  # whose excluded items are looked up at once


class Requests(NamedTuple):
    """What B users ask, and what is known of them.

    Attributes:
      users: vectors, float32 [B, d].
      exclude: the items not to return, int32 [B, E], -1 after.
      met: for a cross, the items that they met, int32 [B, L], -1 after, latest first where they
        have an order.
    """

    users: np.ndarray
    exclude: np.ndarray
    met: np.ndarray | None = None

    def rows(self, index) -> Requests:
        """Return some of the requests, by an index or a slice."""
        return Requests(*(None if x is None else x[index] for x in self))


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
    encode_users: Callable[[Requests], Any]
    encode_nodes: Callable[[Any], Any] | None
    user_flops: float = 0.0

    def features_of_nodes(self, index: Index) -> Any:
        """Return what the scorer reads of an index's nodes, a pytree of [K, ...]."""
        if self.encode_nodes is not None:
            return self.encode_nodes(index.nodes)
        rows = jnp.maximum(index.representatives, 0)  # -1: a node without an item
        return jax.tree.map(lambda x: x[rows], self.items)


def dot_model(item_vectors) -> Model:
    """Return the inner product as a model."""
    items = jnp.asarray(item_vectors)
    return Model("dot", dot, None, items, lambda asked: jnp.asarray(asked.users), jnp.asarray)


def monn_model(name: str, scorer: MoNNScorer, params, users, items, encode_users) -> Model:
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
    flops = user_tower_flops(scorer, params, users, items)
    return Model(name, scorer, params, items, encode_users, _nodes_as_items(items), flops)


def _nodes_as_items(items):
    if set(items) != {"vectors"}:
        return None
    shape = items["vectors"].shape[1:]
    return lambda nodes: {"vectors": jnp.reshape(nodes, (-1, *shape))}


def user_tower_flops(scorer: MoNNScorer, params, users, items) -> float:
    """Count the user tower alone: a search counts itself what the scorer does once a user."""
    return (
        module_flops(scorer.config)["user"]
        - pair_flops(scorer, params, users=users, items=items)[0]
    )


@dataclasses.dataclass
class Exact:
    """Every item is scored."""

    name: str
    model: Model

    def build(self) -> None:
        """Do nothing: there is no index."""

    def search(self, requests: Requests, k: int, budget: int) -> Found:
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


def measure_exact(exact: Exact, requests: Requests, k: int, *, truth) -> tuple[Any, Measured]:
    """Return the ids int [B, k] that approximations are measured by, and the search's measure."""
    found = exact.search(requests, k, 0).ids
    return found, measure(exact, requests, k=k, budgets=[0], exact=found, truth=truth, warm=True)[0]


@dataclasses.dataclass
class HSNN:
    """The items of the best nodes, by one model or by a model a level.

    Attributes:
      name: in tables.
      model: scores items.
      item_vectors, nodes: float [n, d], [K, d].
      slack: see `build_index`.
      router: scores the nodes; by default the model of the items. It reads the same requests.
      cost_weight: see `search_levels`.
    """

    name: str
    model: Model
    item_vectors: Any
    nodes: Any
    slack: float = 1.5
    router: Model | None = None
    cost_weight: float = 0.0
    index: Index | None = None
    tiles: Tiles | None = None
    traced_budget: ClassVar[bool] = True

    def build(self) -> None:
        """Fill the lists."""
        self.index = build_index(self.item_vectors, self.nodes, slack=self.slack)
        self.tiles = pack(self.index, self.model.items)
        self._coarse = self.router or self.model
        self._node_features = self._coarse.features_of_nodes(self.index)

    @property
    def least_budget(self) -> int:
        """The capacity of a list."""
        return int(self.index.lists.shape[1])

    def search(self, requests: Requests, k: int, budget: int) -> Found:
        """See `Searcher`; at least one list is scored."""
        fine, coarse = self.model, self._coarse
        users = fine.encode_users(requests)
        of_nodes = users if coarse is fine else coarse.encode_users(requests)
        found = search_levels(
            (
                Level(coarse.scorer, coarse.params, of_nodes, self._node_features),
                Level(fine.scorer, fine.params, users, self.tiles),
            ),
            (self.index,),
            k=k,
            budgets=(max(budget, self.least_budget),),
            exclude=jnp.asarray(requests.exclude),
            cost_weight=self.cost_weight,
        )
        flops = float(jnp.mean(found.flops)) + fine.user_flops
        if coarse is not fine:
            flops += coarse.user_flops
        return Found(np.asarray(found.ids), float(jnp.mean(found.items_scored)), flops)


def load_faiss():
    """Import faiss.

    Raises:
      InputError: it is not installed.
    """
    try:
        with warnings.catch_warnings():  # of its SWIG wrapper, under newer Pythons
            warnings.simplefilter("ignore", DeprecationWarning)
            import faiss
    except ImportError as error:
        raise InputError(
            "faiss: expected the package faiss-cpu (extra `bench`), found none; "
            "pip install faiss-cpu, or --baselines none"
        ) from error
    return faiss


@dataclasses.dataclass
class FaissIVF:
    """faiss IndexIVFFlat under the inner product; the budget gives the number of lists probed."""

    name: str
    item_vectors: np.ndarray
    num_lists: int
    seed: int = 0

    def build(self) -> None:
        """Cluster the items and fill the lists."""
        faiss = load_faiss()
        items = np.ascontiguousarray(self.item_vectors, np.float32)
        width = items.shape[1]
        # The index borrows its quantizer: it must live as long.
        self._quantizer = faiss.IndexFlatIP(width)
        self.index = faiss.IndexIVFFlat(
            self._quantizer, width, self.num_lists, faiss.METRIC_INNER_PRODUCT
        )
        self.index.cp.min_points_per_centroid = 1  # else it warns on small data
        self.index.cp.seed = self.seed + 1
        self.index.train(items)
        self.index.add(items)

    def search(self, requests: Requests, k: int, budget: int) -> Found:
        """See `Searcher`."""
        items = len(self.item_vectors)
        self.index.nprobe = int(np.clip(round(budget * self.num_lists / items), 1, self.num_lists))
        count = min(items, k + requests.exclude.shape[1])
        stats = load_faiss().cvar.indexIVF_stats
        return _ask(self.index, stats, requests, k, count, centroids=self.num_lists)


@dataclasses.dataclass
class FaissHNSW:
    """faiss IndexHNSWFlat under the inner product; the budget gives efSearch."""

    name: str
    item_vectors: np.ndarray
    neighbours: int = 16

    def build(self) -> None:
        """Insert the items one by one."""
        faiss = load_faiss()
        items = np.ascontiguousarray(self.item_vectors, np.float32)
        self.index = faiss.IndexHNSWFlat(
            items.shape[1], self.neighbours, faiss.METRIC_INNER_PRODUCT
        )
        self.index.hnsw.efConstruction = 100
        self.index.add(items)

    def search(self, requests: Requests, k: int, budget: int) -> Found:
        """See `Searcher`. Each item kept brings about eight more distances."""
        items = len(self.item_vectors)
        self.index.hnsw.efSearch = max(k, budget // 8)
        count = min(items, self.index.hnsw.efSearch, k + requests.exclude.shape[1])
        return _ask(self.index, load_faiss().cvar.hnsw_stats, requests, k, count)


def _ask(index, stats, requests: Requests, k: int, count: int, *, centroids: int = 0) -> Found:
    """Search a faiss index for `count` candidates and keep the first k that are new.

    `stats` counts the items scored; `centroids` are scored beside them.
    """
    users = np.ascontiguousarray(requests.users, np.float32)
    stats.reset()
    _, ids = index.search(users, count)
    scored = stats.ndis / len(ids)
    flops = 2.0 * users.shape[1] * (scored + centroids)
    return Found(_first_new(ids, requests.exclude, k, index.ntotal), scored, flops)


@dataclasses.dataclass
class Reranked:
    """The best candidates of another searcher, ordered by a model.

    A budget of b re-ranks the best b / `scanned_per_ranked` candidates, at least `least` k.
    Items scored are those that the other searcher scans where it scans a part of them; after a
    scan of everything, the candidates.
    """

    name: str
    candidates: FaissIVF | HSNN | Exact
    model: Model
    scanned_per_ranked: int = 8
    least: int = 4

    def build(self) -> None:
        """Build the other searcher."""
        self.candidates.build()

    def search(self, requests: Requests, k: int, budget: int) -> Found:
        """See `Searcher`."""
        items = jax.tree.leaves(self.model.items)[0].shape[0]
        count = min(items, max(self.least * k, budget // self.scanned_per_ranked))
        found = self.candidates.search(requests, count, budget)
        users = self.model.encode_users(requests)
        ids = rerank(self.model, users, found.ids, k)
        per_user, per_item = pair_flops(
            self.model.scorer, self.model.params, users=users, items=self.model.items
        )
        flops = found.flops + self.model.user_flops + per_user + per_item * count
        scored = count if isinstance(self.candidates, Exact) else found.items_scored
        return Found(ids, scored, flops)


def rerank(model: Model, users, candidates, k: int) -> np.ndarray:
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


def _first_new(ids, exclude, k: int, num_items: int) -> np.ndarray:
    """Keep the first k ids of each row that are not excluded; -1 where they run out."""
    kept = np.full((len(ids), k), -1, np.int32)
    # Users are few at a time, so that the table stays in cache: this is timed with the search.
    for first in range(0, len(ids), _USERS):
        found, barred_ids = ids[first : first + _USERS], exclude[first : first + _USERS]
        rows = np.arange(len(found))[:, None]
        barred = np.zeros((len(found), num_items + 1), bool)
        barred[rows, barred_ids] = True
        barred[:, -1] = True  # id -1
        new = ~barred[rows, found]
        rank = np.cumsum(new, axis=1) - 1
        row, column = np.nonzero(new & (rank < k))
        kept[first + row, rank[row, column]] = found[row, column]
    return kept
