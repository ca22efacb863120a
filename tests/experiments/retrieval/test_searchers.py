"""Searchers against exact search, and what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.retrieval.faiss_peers import FaissHNSW, FaissIVF
from experiments.retrieval.searchers import (
    HSNN,
    Exact,
    Model,
    Reranked,
    dot_model,
)
from hsnn_jax.monn.scorers import dot
from hsnn_jax.nodes.kmeans import kmeans


def _deep(params, users, items):
    """Not an inner product, though near to one."""
    plain = dot(None, users["vector"], items["vector"])
    return plain + 0.3 * jnp.sin(dot(None, users["vector"] * params[None, :], items["square"]))


def _deep_items(vectors):
    vectors = jnp.asarray(vectors)
    return {"vector": vectors, "square": vectors**2}


def _searchers(items):
    nodes = np.asarray(kmeans(jnp.asarray(items), 8, key=jax.random.key(0)))
    encode = (lambda asked: _deep_items(asked.users)), _deep_items
    deep = Model("deep", _deep, jnp.ones(6), _deep_items(items), *encode, 7.0)
    plain = dot_model(items)
    ivf = FaissIVF("ivf", items, 8)
    return [
        (plain, HSNN("hsnn", plain, items, nodes)),
        (plain, ivf),
        (plain, FaissHNSW("hnsw", items)),
        (deep, HSNN("deep", deep, items, nodes)),
        (deep, HSNN("deep, dot routes", deep, items, nodes, router=plain)),
        (deep, Reranked("re-ranked", ivf, deep, scanned_per_ranked=1)),
        (deep, Reranked("too", HSNN("", plain, items, nodes), deep, scanned_per_ranked=1)),
    ]


def test_searchers_with_a_full_budget_agree_with_their_exact_search(vectors):
    pytest.importorskip("faiss")
    items, requests = vectors
    for model, searcher in _searchers(items):
        exact = Exact("", model).search(requests, 5, budget=0)
        assert not (exact.ids == np.arange(12)[:, None]).any()
        searcher.build()
        found = searcher.search(requests, 5, budget=8 * 200 if "hnsw" in searcher.name else 200)
        agree = (np.sort(found.ids, axis=1) == np.sort(exact.ids, axis=1)).mean()
        assert agree == 1.0, searcher.name
        assert found.items_scored >= 100, searcher.name


def test_a_small_budget_costs_less_and_never_returns_what_is_excluded(vectors):
    pytest.importorskip("faiss")
    items, requests = vectors
    for _, searcher in _searchers(items):
        searcher.build()
        large, small = (searcher.search(requests, 5, budget=budget) for budget in (200, 50))
        assert small.items_scored < large.items_scored
        assert small.flops < large.flops
        assert not (small.ids == np.arange(12)[:, None]).any(), searcher.name
        if searcher.name in ("ivf", "hsnn", "deep"):
            assert small.items_scored <= 60
