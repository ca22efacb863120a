"""Distances hold far from the origin: lists are those of exact arithmetic on the same values."""

import jax
import numpy as np
import pytest

from hsnn_jax import LTIConfig, Retriever
from hsnn_jax.distance import middle_of, pairwise_distance
from hsnn_jax.lists.assignment import list_by
from tests.hsnn.planted import integers

NODES, WIDTH = 12, 8


def drawn(seed, rows, offset):
    return (np.random.default_rng(seed).normal(size=(rows, WIDTH)) + offset).astype(np.float32)


def exact_lists(vectors, nodes, capacity):
    """The rule of `assign` in float64."""
    vectors, nodes = np.asarray(vectors, float), np.asarray(nodes, float)
    gaps = np.linalg.norm(vectors[:, None] - nodes[None], axis=2)
    node_of, free = np.full(len(vectors), -1), np.full(len(nodes), capacity)
    while (node_of < 0).any():
        waiting = np.flatnonzero(node_of < 0)
        asked = np.where(free > 0, gaps[waiting], np.inf).argmin(axis=1)
        for node in np.unique(asked):
            rows = waiting[asked == node]
            rows = rows[np.argsort(gaps[rows, node], kind="stable")][: free[node]]
            node_of[rows] = node
            free[node] -= rows.size
    return list_by(node_of, len(nodes), capacity=capacity)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_lists_are_those_of_exact_arithmetic_wherever_the_items_lie(offset):
    items, more = drawn(0, 400, offset), drawn(1, 100, offset)
    retriever = Retriever(LTIConfig(num_nodes=NODES, kmeans_iterations=5), slack=1.1)
    retriever.build_index(items, reserve=100)
    index = retriever.index
    capacity = index.lists.shape[1]
    np.testing.assert_array_equal(index.lists, exact_lists(items, index.nodes, capacity))
    retriever.add(more, 400 + np.arange(100))
    retriever.reassign()
    whole = np.concatenate([items, more])
    np.testing.assert_array_equal(retriever.index.lists, exact_lists(whole, index.nodes, capacity))


def test_nodes_of_k_means_move_with_the_items():
    """Quarters are held exactly at 1e4 too: all that may differ is how means are rounded."""
    items = np.round(4 * drawn(0, 400, 0.0)) / 4
    nodes = []
    for offset in (0.0, 1e4):
        retriever = Retriever(LTIConfig(num_nodes=NODES, kmeans_iterations=5))
        retriever.build_index(items + np.float32(offset))
        nodes.append(np.asarray(retriever.index.nodes, float) - offset)
    np.testing.assert_allclose(nodes[1], nodes[0], atol=2e-3)  # a step of float32 at 1e4 is 1e-3


def test_ties_of_integers_stay_ties():
    vectors, nodes = integers(0, 30, 3), integers(1, 7, 3)
    exact = ((vectors[:, None].astype(float) - nodes[None]) ** 2).sum(axis=2)
    found = pairwise_distance(vectors, nodes, distance="squared_l2")
    np.testing.assert_array_equal(found, exact)
    np.testing.assert_array_equal(middle_of(nodes[:1]), nodes[:1])


def test_distances_far_from_the_origin():
    vectors, nodes = drawn(0, 50, 1e4), drawn(1, 9, 1e4)
    exact = np.linalg.norm(vectors[:, None].astype(float) - nodes[None], axis=2)
    np.testing.assert_allclose(pairwise_distance(vectors, nodes), exact, rtol=1e-5)
    slope = jax.grad(lambda nodes: pairwise_distance(vectors, nodes).sum())(nodes)
    gaps = nodes[None].astype(float) - vectors[:, None]
    np.testing.assert_allclose(slope, (gaps / exact[..., None]).sum(axis=0), rtol=1e-3, atol=1e-3)
