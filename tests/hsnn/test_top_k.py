"""The k best of a row: ties to the lower id, however many there are."""

import re

import jax
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

    def sorted_all(scores, *arguments, count, **options):
        return jnp.zeros((scores.shape[0], count), jnp.int32)

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


def drawn_ties(seed, rows, slots):
    """Rows of which any number tie with the k-th: none, some, all, and free slots among them."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(rows, slots)).astype(np.float32)
    for row in range(rows):
        scores[row, rng.random(slots) < rng.choice([0, 0.1, 0.5, 1.0])] = rng.normal()
        scores[row, rng.random(slots) < rng.choice([0, 0.3, 0.97])] = -np.inf
    ids = np.stack([rng.permutation(2**31 - 2 - slots + np.arange(slots)) for _ in range(rows)])
    return scores, ids.astype(np.int32)


@pytest.mark.parametrize("k", [1, 7, 40])
def test_the_lowest_ids_of_any_number_of_ties(k):
    scores, ids = drawn_ties(k, 200, 60)
    found, best = top_k(scores, ids, k=k)
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    expected = np.take_along_axis(scores, order, axis=1)
    np.testing.assert_array_equal(best, expected)
    known = np.where(expected == -np.inf, -1, np.take_along_axis(ids, order, axis=1))
    np.testing.assert_array_equal(found, known)


def test_many_ties_are_told_apart_without_sorting_integers():
    """XLA:CPU takes four times as long as the rest of a search to sort them."""
    scores, ids = (jnp.zeros((2, 50), kind) for kind in (jnp.float32, jnp.int32))
    program = str(jax.make_jaxpr(lambda *x: top_k(*x, k=5))(scores, ids))
    sorted_kinds = re.findall(r"(\w+)\[[\d,]+\] \w+:i32\[[\d,]+\] = top_k", program)
    assert len(sorted_kinds) == 3 and set(sorted_kinds) == {"f32"}
