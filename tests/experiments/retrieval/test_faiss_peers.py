"""What faiss finds, without what is excluded, and what it costs."""

import numpy as np
import pytest

from experiments.retrieval.faiss_peers import FaissHNSW, FaissIVF, _first_new
from experiments.retrieval.searchers import (
    Exact,
    dot_model,
)


def test_the_first_new_ids_are_kept_in_order():
    ids = np.tile([[5, 3, 2, -1], [0, 1, 2, 3]], (20, 1))
    exclude = np.tile([[3, -1], [0, 3]], (20, 1))
    expected = np.tile([[5, 2, -1], [1, 2, -1]], (20, 1))
    np.testing.assert_array_equal(_first_new(ids, exclude, 3, 6), expected)
    np.testing.assert_array_equal(_first_new(ids, exclude, 1, 6), expected[:, :1])


def test_costs_are_those_of_the_parts(vectors):
    pytest.importorskip("faiss")
    items, requests = vectors
    ivf = FaissIVF("ivf", items, 8)
    ivf.build()
    assert ivf.search(requests, 5, budget=200).items_scored == 200
    assert ivf.search(requests, 5, budget=200).flops == 2 * 6 * (200 + 8)
    exact = Exact("", dot_model(items)).search(requests, 5, budget=0)
    assert exact.flops == pytest.approx(2 * 6 * 200, rel=0.1)


@pytest.mark.parametrize("kind", ["spherical", "L2", "HNSW", "HNSW, reduced"])
def test_each_kind_finds_the_largest_inner_products(vectors, kind):
    pytest.importorskip("faiss")
    items, requests = vectors
    # Lengths differ: the nearest by L2 or by cosine are others than the largest products.
    items = items * np.linspace(0.2, 3, len(items), dtype=np.float32)[:, None]
    products = requests.users @ items.T
    products[np.arange(12), requests.exclude[:, 0]] = -np.inf
    exact = np.argsort(-products, axis=1)[:, :5]
    if kind.startswith("HNSW"):
        searcher = FaissHNSW(kind, items, reduced=kind != "HNSW")
    else:
        searcher = FaissIVF(kind, items, 8, spherical=kind == "spherical")
    searcher.build()
    found = searcher.search(requests, 5, budget=1600)  # all lists; a wide beam
    np.testing.assert_array_equal(np.sort(found.ids, axis=1), np.sort(exact, axis=1))
    few = searcher.search(requests, 5, budget=50)
    assert few.items_scored < found.items_scored
