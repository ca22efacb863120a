"""Towers of ids that are trained on the graph."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.datasets import read
from experiments.retrieval.graph_training import smoothed, spectral_start
from experiments.tasks.graph_towers import (
    make_graph,
)
from experiments.tasks.pairs import pose_pairs


def test_the_spectral_start_tells_kinds_apart(kinds):
    problem = pose_pairs(read(kinds), seed=0)
    graph = make_graph(problem.train, num_users=150, num_items=problem.num_items)
    start = spectral_start(graph, 8, seed=0)
    users, items = smoothed(graph, jax.tree.map(jnp.asarray, start), layers=2)
    best = np.asarray(users @ items.T).argmax(axis=1)
    kind = np.asarray(read(kinds).item_ids)[best] // 30
    assert (kind == np.arange(150) % 6).mean() > 0.95
