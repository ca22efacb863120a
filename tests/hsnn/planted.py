"""Drawn item and user vectors with known clusters."""

import dataclasses

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


def tree(seed, *, items, width, branches, leaves, noise):
    """Draw unit vectors around the leaves of a two-level tree with equal leaves.

    Leaves lie around their branch at half of the branches' scale.

    Returns:
      (vectors [n, d], branch [n], leaf [n] numbered over all branches).
    """
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(branches, width)))
    offsets = 0.5 * unit(rng.normal(size=(branches * leaves, width)))
    leaf = np.arange(items) % (branches * leaves)
    spread = noise * rng.normal(size=(items, width)) / np.sqrt(width)
    return unit(centres[leaf // leaves] + offsets[leaf] + spread), leaf // leaves, leaf


def purity(nodes, cluster):
    """Return the share of items that belong to the commonest cluster of their node."""
    tables = [np.bincount(cluster[nodes == k]).max() for k in np.unique(nodes)]
    return sum(tables) / cluster.size


def same_answers(one, other):
    """All that one answer of a retriever says is what the other says, bit for bit."""
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(
            getattr(one, field.name), getattr(other, field.name), field.name
        )
