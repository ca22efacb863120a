"""Content vectors of items: text to TF-IDF to a truncated SVD, fitted on the training period."""

from typing import Any

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from experiments.data.interactions import Interactions

MAX_FEATURES = 50_000  # most frequent words and word pairs that are kept


def content_vectors(
    interactions: Interactions, fit_rows: np.ndarray, *, dim: int = 128, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the items' own vectors where the data has them, else embeddings of their texts.

    Args:
        interactions: with `item_content`, `item_texts` or neither (then no item has content).
        fit_rows: items of the training period, bool [n_items] or indices; vectors that came with
            the data need no fit.
        dim: features of text embeddings.
        seed: of the SVD's random start.

    Returns:
        vectors float32 [n_items, d], rows of length 1 or zero, and has_content bool [n_items].
    """
    if interactions.item_content is not None:
        return _unit_rows(np.nan_to_num(interactions.item_content, nan=0.0))
    if interactions.item_texts is not None:
        return text_embeddings(interactions.item_texts, fit_rows, dim=dim, seed=seed)
    n_items = interactions.n_items
    return np.zeros((n_items, dim), np.float32), np.zeros(n_items, bool)


def text_embeddings(
    texts: list[str], fit_rows: np.ndarray, *, dim: int = 128, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Embed texts by latent semantic analysis; words unseen in `fit_rows` do not count.

    TF-IDF over words and word pairs with 1 + log(count), then a truncated SVD. Only the rows in
    `fit_rows` decide the vocabulary, the inverse document frequencies and the SVD's axes.

    Args:
        texts: one a row, "" where there is none.
        fit_rows: rows to fit on, bool [n] or indices.
        dim: features; columns beyond the rank of the fitted rows are zero.
        seed: of the SVD's random start.

    Returns:
        vectors float32 [n, dim], of length 1, or zero where has_content is False, and
        has_content bool [n]: False where no word of the text is known.

    Raises:
        ValueError: dim < 1, or fit_rows is not made of rows of `texts`.

    Source: Deerwester et al., Indexing by latent semantic analysis, 1990.
    """
    rows = _checked_rows(fit_rows, len(texts))
    if dim < 1:
        raise ValueError(f"dim: expected at least 1, found {dim}")
    fitted = [texts[row] for row in rows if texts[row].strip()]
    tfidf = TfidfVectorizer(
        ngram_range=(1, 2),
        sublinear_tf=True,
        max_features=MAX_FEATURES,
        dtype=np.float32,  # pyright: ignore[reportArgumentType]  # the stub knows float64 alone
    )
    try:
        fitted_x = tfidf.fit_transform(fitted)
    except ValueError:  # scikit-learn's way to say that there is not a word
        return np.zeros((len(texts), dim), np.float32), np.zeros(len(texts), bool)
    return _unit_rows(_project(fitted_x, tfidf.transform(texts), dim, seed))


def _checked_rows(fit_rows: np.ndarray, n: int) -> np.ndarray:
    rows = np.asarray(fit_rows)
    if rows.dtype == np.bool_ and rows.shape == (n,):
        return np.flatnonzero(rows)
    is_index = rows.ndim == 1 and rows.dtype.kind in "iu"
    if not is_index or np.any(rows < 0) or np.any(rows >= n):
        raise ValueError(
            f"fit_rows: expected bool [{n}] or row numbers below {n}, "
            f"found {rows.dtype} {list(rows.shape)}"
        )
    return np.unique(rows)


def _project(fitted: Any, rows: Any, dim: int, seed: int) -> np.ndarray:
    """Project sparse rows on the first `dim` right singular vectors of `fitted`, sparse too.

    Zero beyond its rank.
    """
    rank = min(dim, *fitted.shape)
    projected = np.zeros((rows.shape[0], dim), np.float32)
    if rank == fitted.shape[1]:  # as many axes as words: the words themselves are the axes
        projected[:, :rank] = rows.toarray()
        return projected
    with np.errstate(invalid="ignore"):  # the explained share of the variance of one row is 0 / 0
        svd = TruncatedSVD(rank, n_iter=4, random_state=seed).fit(fitted)
    projected[:, :rank] = svd.transform(rows)
    return projected


def _unit_rows(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide rows by their length; a row too short to have a direction has no content."""
    length = np.linalg.norm(vectors, axis=1)
    has_content = length > 1e-6
    unit = np.where(has_content[:, None], vectors / np.maximum(length, 1e-6)[:, None], 0.0)
    return unit.astype(np.float32), has_content
