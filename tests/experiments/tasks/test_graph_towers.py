"""Vectors from the graph of who took what."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.datasets import read
from experiments.tasks.graph_towers import (
    graph_of,
    make_graph,
    propagate,
    spectral_towers,
    validation,
)
from experiments.tasks.pairs import Pairs, pose_pairs


def test_propagation_is_the_normalised_adjacency_and_so_is_its_gradient():
    rng = np.random.default_rng(0)
    dense = (rng.random((7, 5)) < 0.4).astype(np.float32)
    pairs = Pairs(*(x.astype(np.int32) for x in np.nonzero(dense)))
    graph = make_graph(pairs, num_users=7, num_items=5)
    degrees = np.outer(dense.sum(1), dense.sum(0))
    adjacency = dense / np.sqrt(np.maximum(degrees, 1))
    users, items = rng.normal(size=(7, 3)), rng.normal(size=(5, 3))
    got = propagate(graph, (jnp.asarray(users, jnp.float32), jnp.asarray(items, jnp.float32)))
    np.testing.assert_allclose(got[0], adjacency @ items, atol=1e-6)
    np.testing.assert_allclose(got[1], adjacency.T @ users, atol=1e-6)
    weights = rng.normal(size=(7, 3)).astype(np.float32)

    def value(items):
        return jnp.sum(weights * propagate(graph, (jnp.zeros((7, 3)), items))[0])

    gradient = jax.grad(value)(jnp.asarray(items, jnp.float32))
    np.testing.assert_allclose(gradient, adjacency.T @ weights, atol=1e-6)


def test_spectral_towers_are_the_low_pass_filter_and_find_what_is_held_out(kinds):
    problem = pose_pairs(read(kinds), seed=0)
    towers = spectral_towers(problem, 6, seed=0)
    users, items = towers.users(towers.train), towers.items(towers.train)
    dense = np.zeros((150, problem.num_items))
    dense[problem.train.users, problem.train.items] = 1
    by_item = np.sqrt(np.maximum(dense.sum(0), 1))
    weighted = dense / np.sqrt(dense.sum(1))[:, None] / by_item[None, :]
    _, _, vt = np.linalg.svd(weighted)
    expected = dense / by_item[None, :] @ vt[:6].T @ vt[:6] * by_item[None, :]
    got = users @ items.T
    scale = np.linalg.norm(expected, axis=1) / np.linalg.norm(got, axis=1)
    # The singular vectors are those of a randomised method.
    np.testing.assert_allclose(got * scale[:, None], expected, atol=0.01)
    np.testing.assert_allclose((items**2).sum(axis=1).mean(), 1, rtol=1e-5)
    rows, measure = validation(problem, seed=0)
    found = measure(users[rows], items)
    chance = measure(users[rows][::-1], np.random.default_rng(0).permutation(items))
    assert found > 0.9 > 0.3 > chance  # 20 items are asked for, and a user's kind has 30


def test_a_user_without_an_item_is_the_user_of_the_graph_without_it(kinds):
    problem = pose_pairs(read(kinds), seed=0)
    towers = spectral_towers(problem, 6, seed=0)
    edges = np.array([0, 7, len(problem.train.users) - 1])
    taken = Pairs(*(x[edges] for x in problem.train))
    for user, item, own in zip(*taken, towers.users_without(*taken)):
        kept = (problem.train.users != user) | (problem.train.items != item)
        graph = graph_of(problem, Pairs(*(x[kept] for x in problem.train)))
        # Only this user's row is compared: its other items have the same degrees in both.
        np.testing.assert_allclose(own, towers.users(graph)[user], atol=1e-5)
