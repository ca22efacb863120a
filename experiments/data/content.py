"""Content vectors of items: their own, or their texts encoded as the training period teaches."""

import numpy as np

from experiments.data.interactions import Interactions
from nxtpost_jax.events.texts import TextEncoder


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

    Raises:
        ValueError: dim < 1, or fit_rows is not made of rows of the texts.
    """
    if interactions.item_content is not None:
        return _unit_rows(np.nan_to_num(interactions.item_content, nan=0.0))
    if interactions.item_texts is not None:
        texts = interactions.item_texts
        rows = _checked_rows(fit_rows, len(texts))
        vectors = TextEncoder.fit([texts[row] for row in rows], dim=dim, seed=seed)(texts)
        return vectors, np.asarray(vectors.any(axis=1))
    n_items = interactions.n_items
    return np.zeros((n_items, dim), np.float32), np.zeros(n_items, bool)


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


def _unit_rows(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide rows by their length; a row too short to have a direction has no content."""
    length = np.linalg.norm(vectors, axis=1)
    has_content = length > 1e-6
    unit = np.where(has_content[:, None], vectors / np.maximum(length, 1e-6)[:, None], 0.0)
    return unit.astype(np.float32), has_content
