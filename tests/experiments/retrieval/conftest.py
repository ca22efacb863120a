"""Vectors to search among."""

import numpy as np
import pytest

from experiments.retrieval.searchers import Requests


@pytest.fixture(scope="module")
def vectors():
    """Items around eight centres, float32 [200, 6], and requests near the first twelve."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(8, 6))
    items = (centres[np.arange(200) % 8] + 0.3 * rng.normal(size=(200, 6))).astype(np.float32)
    users = (items[:12] + 0.1 * rng.normal(size=(12, 6))).astype(np.float32)
    exclude = np.full((12, 3), -1, np.int32)
    exclude[:, 0] = np.arange(12)
    return items, Requests(users, exclude, exclude)
