"""The k best of a row: ties to the lower id, however many there are."""

import jax.numpy as jnp
import numpy as np
import pytest

from hsnn_jax import top_k as top_k_module
from hsnn_jax.top_k import top_k


def test_top_k_breaks_ties_by_id():
    scores = jnp.asarray([[1.0, 2.0, 1.0, 1.0, -jnp.inf, 0.0]])
    ids = jnp.asarray([[7, 9, 3, 5, 0, 1]], jnp.int32)
    for k, expected in ((2, [9, 3]), (3, [9, 3, 5]), (7, [9, 3, 5, 7, 1, -1, -1])):
        assert top_k(scores, ids, k=k)[0].tolist() == [expected]


@pytest.mark.parametrize("k", [1, 5, 30])
def test_a_few_ties_are_told_apart_without_sorting_all_candidates(k, monkeypatch):
    rng = np.random.default_rng(k)
    scores = rng.permutation(np.arange(400.0)).astype(np.float32)[None].repeat(4, axis=0)
    ids = rng.permutation(400).astype(np.int32)[None].repeat(4, axis=0)
    cut = np.sort(scores[0])[-k]
    for row, ties in enumerate((1, 2, 5, 8)):  # with the k-th
        scores[row, rng.choice(np.flatnonzero(scores[row] < cut), ties - 1, replace=False)] = cut
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    expected = np.take_along_axis(ids, order, axis=1)

    def sorted_all(*arguments, **options):
        return jnp.zeros_like(arguments[-1])

    monkeypatch.setattr(top_k_module, "_lowest_of_all", sorted_all)
    np.testing.assert_array_equal(top_k(scores, ids, k=k)[0], expected)
    monkeypatch.undo()
    scores[0, scores[0] < cut] = cut  # all of them
    expected[0] = ids[0][np.lexsort((ids[0], -scores[0]))[:k]]
    np.testing.assert_array_equal(top_k(scores, ids, k=k)[0], expected)


def test_top_k_of_a_short_row_beside_a_tied_one():
    scores = jnp.asarray([[1.0, 1.0, 1.0, 1.0], [-jnp.inf, -jnp.inf, 5.0, -jnp.inf]])
    ids = jnp.asarray([[3, 2, 1, 0], [-1, -1, 6, -1]], jnp.int32)
    assert top_k(scores, ids, k=2)[0].tolist() == [[0, 1], [6, -1]]
