"""Items that crowd: nodes are spread over them, and where that cannot be, a warning says so."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from hsnn_jax import LTIConfig, Retriever, SkewWarning, recall
from hsnn_jax.lists.assignment import nearest_of_rows
from hsnn_jax.nodes import crowding
from hsnn_jax.nodes.crowding import split_crowded
from tests.hsnn.planted import clusters, users_near


def crowded(seed=0):
    """3,600 items in a tight cluster and 400 scattered ones, and users of other clusters."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, 16))
    cluster, few = rng.normal(size=(3600, 16)), rng.normal(size=(400, 16))
    users = centres[rng.integers(0, 40, 50)] + 0.4 * rng.normal(size=(50, 16))
    return np.r_[1 + 0.05 * cluster, 3 * few].astype(np.float32), users.astype(np.float32)


def exact(users, items, k=10):
    return np.argsort(-(users @ items.T), axis=1)[:, :k]


def test_items_that_crowd_are_found_within_a_budget():
    items, users = crowded()
    retriever = Retriever(LTIConfig(num_nodes=64))
    stats = retriever.build_index(items)  # without a warning, which would be an error here
    assert stats["overflow"] < 0.05 * 4000
    assert (stats["nodes"], stats["capacity"]) == (64, 125)
    assert not retriever.needs_rebuild()
    for asked in (users, items[3600::4]):
        found = retriever.search(asked, 10, budget=200).ids
        assert recall(found, exact(asked, items)) >= 0.75


def test_nodes_of_even_items_stay_as_they_were_learned():
    items, _ = clusters(0, items=600, width=8, num_clusters=12, noise=0.5)
    nodes = items[:12]
    assert split_crowded(items, nodes, capacity=100) is nodes


def test_nodes_move_to_the_crowd_until_its_lists_hold_it():
    items, _ = crowded(1)
    nodes = np.r_[items[:1], items[3601:3640]]
    moved = split_crowded(items, nodes, capacity=200, seed=3)
    counts = np.bincount(nearest_of_rows(items, jnp.asarray(moved))[0], minlength=40)
    assert moved.shape == nodes.shape and moved.dtype == nodes.dtype
    assert np.maximum(counts - 200, 0).sum() <= 0.05 * 4000
    np.testing.assert_array_equal(moved, split_crowded(items, nodes, capacity=200, seed=3))


def test_rounds_that_do_not_help_are_few(monkeypatch):
    """Items of two places fill two lists, whatever the nodes do."""
    items = np.repeat(np.eye(2, 8, dtype=np.float32), 50, axis=0)
    nodes, asked = np.eye(8, dtype=np.float32)[::-1].copy(), []

    def counted(*args, **options):
        asked.append(1)
        return nearest_of_rows(*args, **options)

    monkeypatch.setattr(crowding, "nearest_of_rows", counted)
    assert split_crowded(items, nodes, capacity=20) is nodes
    assert len(asked) == 2 * 4 + 1  # two a round, and the one that is found in vain


def coinciding():
    items = np.repeat(np.eye(8, dtype=np.float32), [93, 1, 1, 1, 1, 1, 1, 1], axis=0)
    return Retriever(LTIConfig(num_nodes=8, kmeans_iterations=5)), items


def test_a_warning_counts_the_items_that_no_node_can_part():
    retriever, items = coinciding()
    message = r"\d\d of 100 items lie away from their nearest node, whose list of 25 slots is full"
    with pytest.warns(SkewWarning, match=message) as caught:
        retriever.build_index(items)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert retriever.stats()["overflow"] > 50
    assert retriever.needs_rebuild()
    assert not retriever.needs_rebuild(most_overflow=1.0)


def test_an_even_set_is_searched_as_before():
    items, _ = clusters(0, items=1200, width=16, num_clusters=30, noise=0.8)
    users, _ = users_near(1, items, users=60, noise=0.5)
    retriever = Retriever(LTIConfig(num_nodes=30))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert retriever.build_index(items)["overflow"] == 0
    assert recall(retriever.search(users, 10, budget=120).ids, exact(users, items)) > 0.8
