"""Nodes of several levels learned by the retriever, and taken from joint training."""

import functools

import jax
import numpy as np
import optax
import pytest

from hsnn_jax import JointConfig, Retriever, init_joint
from hsnn_jax.lists.levels import nodes_of_items
from tests.hsnn.three_levels import (
    CONFIG,
    ITEMS,
    MODELS,
    RESERVE,
    USERS,
    K,
    built,
    drawn_items,
    logits,
    params,
    users,
)


def test_fit_learns_nodes_of_all_levels_on_the_last_model_and_a_frontier_is_drawn():
    retriever = Retriever(CONFIG, model=MODELS, params={"models": params()["models"]})
    items = drawn_items(0, ITEMS)
    retriever.fit_nodes(users(), items, positives=np.arange(USERS), tx=optax.sgd(0.1))
    assert [nodes.shape for nodes in retriever.nodes] == [(2, 3), (6, 3)]
    stats = retriever.build_index(items, reserve=RESERVE)
    assert (stats["items"], stats["nodes"]) == (ITEMS, 6)
    counts = np.bincount(jax.device_get(nodes_of_items(retriever.indexes))[0][:ITEMS], minlength=2)
    assert stats["level_1_imbalance"] == pytest.approx(2 * counts.max() / ITEMS)
    capacity = retriever.index.lists.shape[1]
    points = retriever.frontier(users(), K, budgets=[capacity, (6, ITEMS)])
    assert points[0].recall < points[1].recall == 1.0
    assert points[0].items_scored <= capacity < points[1].items_scored == ITEMS
    assert points[1].share_scored == 1.0
    assert points[0].flops < points[1].flops
    # Without an ensemble the last level ranks by its own output.
    np.testing.assert_allclose(
        retriever.search(users(), K).scores[:, 0],
        logits(2, items, task=0).max(axis=1),
        rtol=1e-4,
        atol=1e-5,
    )


def test_jointly_trained_nodes_are_the_indexs():
    retriever, _ = built()
    config = JointConfig(models=MODELS, index=CONFIG)
    init = functools.partial(init_joint, config=config, item_features=drawn_items(0, ITEMS)[0])
    shapes = jax.eval_shape(init, jax.random.key(0))
    assert jax.tree.structure(shapes) == jax.tree.structure(retriever.params)
    coarse, fine = (np.asarray(nodes) for nodes in retriever.params["nodes"])
    sums = (coarse[:, None] + fine[None]).reshape(6, 3)
    np.testing.assert_array_equal(retriever.indexes[0].nodes, coarse)
    np.testing.assert_array_equal(retriever.indexes[1].nodes, sums)
    np.testing.assert_array_equal(retriever.indexes[0].lists[:, :3], [[0, 1, 2], [3, 4, 5]])
