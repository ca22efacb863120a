"""Rivals that search inner products and let a MoNN order what they find.

Vectors are those of the two tower, or where a MoNN has several, each of these.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.retrieval.faiss_peers import FaissHNSW, FaissIVF
from experiments.retrieval.kept_gain import NAMES, TWO_TOWER
from experiments.retrieval.rivals import Rival
from experiments.retrieval.searchers import Exact, Model, Requests, Reranked, rerank
from hsnn_jax.chunks import by_chunks
from hsnn_jax.cost_curves import Found, Searcher
from hsnn_jax.monn.scorers import pair_flops

VECTORS = NAMES[TWO_TOWER]  # whose vectors are searched
NO_FAISS = "n/a: faiss is not installed"
SHARES = (1.0, 0.5, 0.75, 0.25)  # of the budget, how many are re-ranked


@dataclasses.dataclass
class OfVectors:
    """A searcher of vectors, asked by what `encode` makes of requests: float [B, d].

    Its cost is the searcher's and `flops` a user, those of `encode`. A graph's beam must hold what
    is found and then left out: its budget, of which an eighth is the beam, is at least
    8 (k + spare).
    """

    name: str
    searcher: Searcher
    encode: Callable[[Requests], Any]
    flops: float
    spare: int | None = None

    def build(self) -> None:
        """Build the searcher."""
        self.searcher.build()

    def search(self, requests: Requests, k: int, *, budget: int) -> Found:
        """See `Searcher`."""
        users = np.asarray(self.encode(requests))
        if self.spare is not None:
            budget = max(budget, 8 * (k + self.spare))
        found = self.searcher.search(requests._replace(users=users), k, budget=budget)
        return found._replace(flops=found.flops + self.flops)


def faiss_rivals(
    item_vectors: np.ndarray,
    encode: Callable[[Requests], Any],
    *,
    model: Model | None,
    budget: int,
    seed: int,
    flops: float,
    excluded: int,
) -> list[Rival]:
    """Return IVF and HNSW over the two tower's vectors, alone or followed by a re-ranking.

    IVF has L2 centroids or spherical ones, HNSW searches by inner product or after the reduction of
    that to L2: the better on validation counts, as does the number of lists or of neighbours.

    Args:
      item_vectors: float [n, d].
      encode: of the two tower's users.
      model: that orders what is found; None for the vectors' own order.
      budget: items to score.
      seed: of the centroids.
      flops: of the two tower's user tower.
      excluded: items that are left out for a user, on average.
    """
    what = "" if model is None else f", re-ranked by {model.name}"
    names = [f"two tower, faiss {kind}{what}" for kind in ("IVF", "HNSW")]
    reads = (VECTORS,) if model is None else (VECTORS, model.name)
    of: dict[str, Any] = {"reads": reads, "model": reads[-1]}
    if find_spec("faiss") is None:
        return [Rival(name, reason=NO_FAISS) for name in names]
    root = max(2, round(len(item_vectors) ** 0.5))

    def made(index: Searcher) -> Searcher:
        spare = excluded if isinstance(index, FaissHNSW) else None
        vectors = OfVectors(index.name, index, encode, flops, spare)
        if model is None:
            return vectors
        return Reranked(index.name, vectors, model, scanned_per_ranked=2, least=1)

    ivf = {
        f"{'spherical' if spherical else 'L2'}, {lists} lists": functools.partial(
            FaissIVF, names[0], item_vectors, lists, seed=seed, spherical=spherical
        )
        for lists in (root, max(2, root // 2))
        for spherical in (False, True)
    }
    hnsw = {
        f"{'reduced' if reduced else 'inner product'}, {neighbours} neighbours": functools.partial(
            FaissHNSW, names[1], item_vectors, neighbours, reduced=reduced
        )
        for neighbours in (16, 32)
        for reduced in (False, True)
    }
    return [
        Rival(
            name,
            {label: (lambda make=make: made(make()), budget) for label, make in kinds.items()},
            **of,
        )
        for name, kinds in zip(names, (ivf, hnsw))
    ]


def reranked_rival(two_tower: Model, model: Model, *, budget: int) -> Rival:
    """Return the two tower's best n items, ordered by a MoNN; n by validation, up to the budget."""
    name = f"two tower's best, re-ranked by {model.name}"
    first = Exact(VECTORS, two_tower)
    settings = {
        f"n = {round(share * budget)}": (
            lambda: Reranked(name, first, model, scanned_per_ranked=1, least=1),
            round(share * budget),
        )
        for share in SHARES
    }
    return Rival(name, settings, reads=(VECTORS, model.name), model=model.name)


@dataclasses.dataclass
class SeveralProducts:
    """The best items of each of a user's vectors, by the best of the item's; ordered by the model.

    The model is a mixture of logits: encoded users and items have "vectors", float [B, U, d] and
    [n, I, d]. A budget of b takes b / U items of each vector.
    """

    name: str
    model: Model

    def build(self) -> None:
        """Do nothing: all products are computed."""

    def search(self, requests: Requests, k: int, *, budget: int) -> Found:
        """See `Searcher`; items that are scored are those that the model orders."""
        model, users = self.model, self.model.encode_users(requests)
        of_users, of_items = users["vectors"], model.items["vectors"]
        each = max(1, budget // of_users.shape[1])
        each = min(max(each, -(-k // of_users.shape[1])), of_items.shape[0])
        exclude = jnp.asarray(requests.exclude)
        candidates = np.asarray(_several(of_users, of_items, exclude, each=each))
        per_user, per_item = pair_flops(model.scorer, model.params, users=users, items=model.items)
        scored = float((candidates >= 0).sum(axis=1).mean())
        products = 2.0 * of_users.shape[1] * np.prod(of_items.shape)
        flops = products + model.user_flops + per_user + per_item * scored
        return Found(rerank(model, users, candidates=candidates, k=k), scored, flops)


@functools.partial(jax.jit, static_argnames="each")
def _several(users_BxUxD, items_NxIxD, exclude_BxE, *, each):
    """Return the distinct candidates of each user, int32 [B, U * each], -1 for none."""
    num_items, parts, width = items_NxIxD.shape
    flat = items_NxIxD.reshape(num_items * parts, width)

    def of_chunk(users, exclude):
        columns = jnp.where(exclude < 0, num_items, exclude)
        rows = jnp.arange(users.shape[0])[:, None]

        def of_vector(vectors_BxD):
            products = (vectors_BxD @ flat.T).reshape(-1, num_items, parts).max(axis=2)
            products = products.at[rows, columns].set(-jnp.inf, mode="drop")
            best, ids = jax.lax.top_k(products, each)
            return jnp.where(jnp.isneginf(best), -1, ids)

        ids = jax.lax.map(of_vector, jnp.swapaxes(users, 0, 1))
        ids = jnp.sort(jnp.swapaxes(ids, 0, 1).reshape(users.shape[0], -1), axis=1)
        again = jnp.pad(ids[:, 1:] == ids[:, :-1], ((0, 0), (1, 0)))
        return jnp.where(again, -1, ids)

    return by_chunks(of_chunk, num_items * parts, users_BxUxD, exclude_BxE)


def several_rival(model: Model, *, budget: int) -> Rival:
    """Return `SeveralProducts` of a MoNN, or why it has none."""
    name = f"several inner products, re-ranked by {model.name}"
    if "vectors" not in model.items or "gate" not in model.items:
        return Rival(name, reason="n/a: the model has one vector")
    settings = {
        f"{round(share * budget)} in all": (
            lambda: SeveralProducts(name, model),
            round(share * budget),
        )
        for share in SHARES
    }
    return Rival(name, settings, reads=(model.name,), model=model.name)
