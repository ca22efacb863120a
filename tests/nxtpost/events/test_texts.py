"""Texts as vectors: unit rows, fitted once, honest about texts of which no word is known."""

import numpy as np
import pytest

from nxtpost_jax.events import texts as module
from nxtpost_jax.events.texts import TextEncoder

WORDS = ["sea", "ship", "storm", "king", "queen", "castle", "robot", "laser", "planet", "moon"]


def make_texts(n=60, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 5)) for _ in range(n)]


def test_rows_have_length_one_or_are_zero():
    texts = [*make_texts(), "", "   ", "unheard words"]
    vectors = TextEncoder.fit(texts[:60], dim=7)(texts)
    assert vectors.shape == (63, 7) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors[:60], axis=1), 1.0, rtol=1e-5)
    assert not vectors[60:].any()


def test_a_new_text_needs_no_refit_and_changes_nothing():
    encoder = TextEncoder.fit(make_texts(), dim=6)
    before = encoder(make_texts())
    (alone,) = encoder(["storm at sea"])
    np.testing.assert_array_equal(encoder(make_texts()), before)
    np.testing.assert_array_equal(encoder(["king", "storm at sea"])[1], alone)
    assert encoder([]).shape == (0, 6)


def test_alike_texts_are_near():
    encoder = TextEncoder.fit(make_texts(), dim=8)
    storm, sea, robot = encoder(["Storm at sea!", "sea storm", "robot laser"])
    assert storm @ sea > 0.9 > storm @ robot + 0.3


@pytest.mark.parametrize("fitted", [["one word"], ["alpha beta", "gamma delta", "alpha gamma"]])
def test_more_dimensions_than_words_or_texts(fitted):
    vectors = TextEncoder.fit(fitted, dim=128)(fitted)
    assert vectors.shape == (len(fitted), 128)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("texts", [["", ""], ["a", "?"], []])
def test_no_words_at_all_encode_nothing(texts):
    encoder = TextEncoder.fit(texts, dim=4)
    assert encoder(["good text", "x"]).tolist() == [[0] * 4] * 2
    assert TextEncoder.restore(encoder.stored()).words == ()


def test_no_dimension_is_refused():
    with pytest.raises(ValueError, match="dim: expected at least 1, found 0"):
        TextEncoder.fit(["a word"], dim=0)


def test_it_survives_as_plain_arrays(tmp_path):
    encoder = TextEncoder.fit([*make_texts(), "Éclair straße 東京 駅"], dim=6)
    np.savez(tmp_path / "text.npz", **encoder.stored())
    with np.load(tmp_path / "text.npz", allow_pickle=False) as arrays:
        restored = TextEncoder.restore(dict(arrays))
    asked = ["storm at éclair", "東京 駅"]
    np.testing.assert_array_equal(restored(asked), encoder(asked))
    assert encoder(asked).any(axis=1).all()
    assert repr(restored) == repr(encoder)


@pytest.mark.parametrize("most", [50_000, 60])
@pytest.mark.parametrize("count", [40, 400])  # fewer texts than words, and more
def test_it_agrees_with_scikit_learn(count, most, monkeypatch):
    """TF-IDF and the randomised SVD of another's code: number for number, so figures stay."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    text = pytest.importorskip("sklearn.feature_extraction.text")
    monkeypatch.setattr(module, "MAX_WORDS", most)
    rng = np.random.default_rng(1)
    words = [f"word{n}" for n in range(30)]
    texts = [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(count)]
    tfidf = text.TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, max_features=most, dtype=np.float32
    )
    rows = tfidf.fit_transform(texts)
    svd = decomposition.TruncatedSVD(20, n_iter=4, random_state=3).fit(rows)
    expected = svd.transform(rows)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    encoder = TextEncoder.fit(texts, dim=20, seed=3)
    assert list(encoder.words) == sorted(tfidf.vocabulary_)
    np.testing.assert_allclose(encoder(texts), expected, atol=1e-3)
