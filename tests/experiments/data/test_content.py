"""Text embeddings: unit rows, fitted on the training rows only, honest about missing content."""

import numpy as np
import pytest

from experiments.data.content import content_vectors, text_embeddings
from experiments.data.interactions import Events, from_events

WORDS = ["sea", "ship", "storm", "king", "queen", "castle", "robot", "laser", "planet", "moon"]


def make_texts(n=60, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 5)) for _ in range(n)]


def test_rows_have_length_one_or_are_masked():
    texts = [*make_texts(), "", "   ", "unheard words"]
    vectors, has_content = text_embeddings(texts, np.arange(60), dim=7)
    assert vectors.shape == (63, 7) and vectors.dtype == np.float32
    assert has_content.tolist() == [True] * 60 + [False] * 3
    np.testing.assert_allclose(np.linalg.norm(vectors[:60], axis=1), 1.0, rtol=1e-5)
    assert not vectors[60:].any()


def test_rows_outside_the_fit_do_not_change_it():
    texts = make_texts()
    fit_rows = np.arange(60) < 40
    before, _ = text_embeddings(texts, fit_rows, dim=6)
    changed = texts[:40] + ["laser laser moon"] * 20
    after, _ = text_embeddings(changed, fit_rows, dim=6)
    np.testing.assert_array_equal(before[:40], after[:40])
    fitted_on_all, _ = text_embeddings(texts, np.arange(60), dim=6)
    assert np.abs(fitted_on_all[:40] - before[:40]).max() > 1e-3


def test_deterministic_and_indices_equal_a_mask():
    texts = make_texts()
    by_mask = text_embeddings(texts, np.arange(60) < 30, dim=6, seed=3)
    by_index = text_embeddings(texts, np.arange(30)[::-1], dim=6, seed=3)
    for a, b in zip(by_mask, by_index):
        np.testing.assert_array_equal(a, b)


def test_alike_texts_are_near():
    texts = [*make_texts(), "storm at sea", "sea storm", "robot laser"]
    vectors, _ = text_embeddings(texts, np.arange(60), dim=8)
    storm, sea, robot = vectors[60:]
    assert storm @ sea > 0.9 > storm @ robot + 0.3


@pytest.mark.parametrize("fitted", [["one word"], ["alpha beta", "gamma delta", "alpha gamma"]])
def test_more_dimensions_than_words_or_rows(fitted):
    vectors, has_content = text_embeddings(fitted, np.arange(len(fitted)), dim=128)
    assert vectors.shape == (len(fitted), 128) and has_content.all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)


def test_no_words_at_all_masks_everything():
    for texts, rows in [(["", ""], [0, 1]), (["a", "?"], [0, 1]), (["good text", "x"], [])]:
        vectors, has_content = text_embeddings(texts, np.array(rows, int), dim=4)
        assert vectors.shape == (2, 4) and not vectors.any() and not has_content.any()


@pytest.mark.parametrize("rows", [np.array([3]), np.array([-1]), np.ones(4, bool), np.array([0.5])])
def test_bad_fit_rows(rows):
    with pytest.raises(ValueError, match=r"fit_rows: expected bool \[3\] or row numbers below 3"):
        text_embeddings(["a", "b", "c"], rows)
    with pytest.raises(ValueError, match="dim: expected at least 1, found 0"):
        text_embeddings(["a"], np.array([0]), dim=0)


def record(**fields):
    return from_events("x", "0", Events(np.array([1, 1, 1]), np.array([4, 5, 6]), **fields))


def test_content_vectors_takes_what_the_data_has():
    rows = np.arange(3)
    matrix = np.array([[3.0, 4.0], [0.0, 0.0]])
    vectors, has_content = content_vectors(record(content=({4: 0, 5: 1}, matrix)), rows)
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 0], [0, 0]], rtol=1e-6)
    assert has_content.tolist() == [True, False, False]
    vectors, has_content = content_vectors(record(texts={4: "red cup", 6: "cup"}), rows, dim=5)
    assert vectors.shape == (3, 5) and has_content.tolist() == [True, False, True]
    vectors, has_content = content_vectors(record(), rows, dim=5)
    assert vectors.shape == (3, 5) and not has_content.any()
