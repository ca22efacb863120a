"""Snippets of the Python source that is installed, as vectors: real text with its natural ties."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np

_LINES = 3  # of a snippet


def source_vectors(count: int, *, width: int, seed: int) -> np.ndarray:
    """Return `count` snippets of three lines as unit vectors float32 [count, width].

    TF-IDF of their words, then a truncated SVD. Snippets without words are left out; equal ones,
    such as licences, stay.

    Raises:
      ValueError: fewer snippets are installed.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = _snippets(4 * count)
    rng = np.random.default_rng(seed)
    if len(texts) < count:
        raise ValueError(f"count: expected at most {len(texts)}, the snippets, found {count}")
    texts = [texts[row] for row in rng.choice(len(texts), count, replace=False)]
    words = TfidfVectorizer(token_pattern=r"[A-Za-z]{2,}", max_features=20_000)
    vectors = TruncatedSVD(width, random_state=seed).fit_transform(words.fit_transform(texts))
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1), 1e-6)[:, None]).astype(np.float32)


def _snippets(most: int) -> list[str]:
    found = []
    for folder in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_paths()[folder]).rglob("*.py")):
            lines = path.read_text("utf-8", errors="ignore").split("\n")
            lines = [line for line in lines if sum(map(str.isalpha, line)) >= 8]
            parts = (" ".join(lines[i : i + _LINES]) for i in range(0, len(lines), _LINES))
            found += [part for part in parts if sum(map(str.isalpha, part)) >= 30]
            if len(found) >= most:
                return found
    return found
