"""Drawn item and user vectors with known clusters."""

import numpy as np


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clusters(seed, *, items, width, num_clusters, noise):
    """Draw unit vectors around random unit centres; return (vectors [n, d], cluster [n])."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(num_clusters, width)))
    cluster = np.arange(items) % num_clusters
    spread = noise * rng.normal(size=(items, width)) / np.sqrt(width)
    return unit(centres[cluster] + spread), cluster


def users_near(seed, vectors, *, users, noise):
    """Draw users around random items; return (vectors [B, d], the items [B])."""
    rng = np.random.default_rng(seed)
    liked = rng.integers(0, vectors.shape[0], users)
    spread = noise * rng.normal(size=(users, vectors.shape[1])) / np.sqrt(vectors.shape[1])
    return unit(vectors[liked] + spread), liked


def integers(seed, *shape):
    """Draw small integers as float32: their inner products are exact in any order of summation."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)
