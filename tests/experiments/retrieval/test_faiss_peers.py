"""What faiss finds, without what is excluded, and what it costs."""

import numpy as np
import pytest

from experiments.retrieval.faiss_peers import FaissIVF, _first_new
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
