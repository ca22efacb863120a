"""Rivals that search inner products, ordered by a model, against numpy."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.retrieval import vector_rivals
from experiments.retrieval.searchers import Model, Requests
from experiments.retrieval.vector_rivals import (
    SeveralProducts,
    faiss_rivals,
    reranked_rival,
    several_rival,
)
from hsnn_jax.monn.scorers import dot


@pytest.fixture(scope="module")
def toy():
    """A model of the second half of the vectors, a two tower of the first."""
    rng = np.random.default_rng(5)
    items, users = (rng.normal(size=(n, 8)).astype(np.float32) for n in (100, 20))
    exclude = rng.integers(0, 100, (20, 2)).astype(np.int32)
    first = Model("two tower", dot, None, items[:, :4], lambda r: r.users[:, :4], None)
    second = Model("MoNN", dot, None, jnp.asarray(items[:, 4:]), lambda r: r.users[:, 4:], None)
    return items, Requests(jnp.asarray(users), exclude), first, second


def products(toy, columns):
    items, requests, _, _ = toy
    scores = np.asarray(requests.users)[:, columns] @ items[:, columns].T
    np.put_along_axis(scores, requests.exclude.astype(int), -np.inf, axis=1)
    return scores


def test_the_best_of_the_two_tower_are_ordered_by_the_model(toy):
    _, requests, two_tower, model = toy
    rival = reranked_rival(two_tower, model, budget=20)
    searcher, budget = rival.built("n = 20")
    found = searcher.search(requests, 5, budget=budget)
    first, second = (products(toy, columns) for columns in (slice(0, 4), slice(4, 8)))
    candidates = np.argsort(-first, axis=1)[:, :20]
    best = np.argsort(-np.take_along_axis(second, candidates, 1), axis=1)[:, :5]
    np.testing.assert_array_equal(found.ids, np.take_along_axis(candidates, best, 1))
    assert found.items_scored == 20
    assert found.flops == pytest.approx(2 * 4 * (100 + 20), rel=0.1)
    assert rival.reads == ("two tower", "MoNN") and rival.model == "MoNN"


def test_each_vector_brings_its_best_items_once(toy):
    items, requests, _, _ = toy
    vectors = jnp.asarray(items.reshape(100, 2, 4))
    scorer = Model("sum", _sum, None, {"vectors": vectors}, _two_vectors, None)
    found = SeveralProducts("", scorer).search(requests, 5, budget=20)
    users = np.asarray(requests.users).reshape(20, 2, 4)
    of_vectors = np.einsum("bud,nid->bnui", users, items.reshape(100, 2, 4)).max(axis=3)
    whole = np.einsum("bud,nid->bn", users, items.reshape(100, 2, 4))
    scored = []
    for row in range(20):
        out = np.unique(requests.exclude[row])
        of_vectors[row, out] = whole[row, out] = -np.inf
        candidates = np.unique(np.argsort(-of_vectors[row], axis=0)[:10])
        best = candidates[np.argsort(-whole[row, candidates])][:5]
        np.testing.assert_array_equal(found.ids[row], best)
        scored.append(len(candidates))
    assert found.items_scored == pytest.approx(np.mean(scored))
    assert several_rival(scorer, budget=9).reason == "n/a: the model has one vector"


def _two_vectors(requests):
    return {"vectors": requests.users.reshape(-1, 2, 4)}


def _sum(params, users, items):
    del params
    return jnp.einsum("bud,bmid->bm", users["vectors"], items["vectors"])


@pytest.mark.parametrize("ordered", [False, True])
def test_faiss_rivals_find_all_where_all_lists_are_probed(toy, ordered):
    pytest.importorskip("faiss")
    items, requests, two_tower, model = toy
    rivals = faiss_rivals(
        items[:, :4],
        two_tower.encode_users,
        model=model if ordered else None,
        budget=800,
        seed=0,
        flops=1000.0,
        excluded=2,
    )
    scores = products(toy, slice(4, 8) if ordered else slice(0, 4))
    expected = np.argsort(-scores, axis=1)[:, :5]
    for rival in rivals:
        assert len(rival.settings) == 4
        label = next(iter(rival.settings))
        searcher, budget = rival.built(label)
        found = searcher.search(requests, 5, budget=budget)
        np.testing.assert_array_equal(np.sort(found.ids), np.sort(expected))
        assert found.flops > 1000


def test_without_faiss_the_rows_say_so(toy, monkeypatch):
    monkeypatch.setattr(vector_rivals, "find_spec", lambda name: None)
    items, _, two_tower, _ = toy
    given = {"model": None, "budget": 10, "seed": 0, "flops": 0.0, "excluded": 2}
    rivals = faiss_rivals(items, two_tower.encode_users, **given)
    assert [rival.reason for rival in rivals] == ["n/a: faiss is not installed"] * 2
    assert all(dataclasses.asdict(rival)["settings"] == {} for rival in rivals)
