"""A planted tree, found or lost."""

import numpy as np

from experiments.data.drawn import planted_tree
from experiments.studies.collapse import PlantedConfig, learn, measure_nodes


def test_a_tree_is_found_with_remedies_and_lost_without():
    drawn = planted_tree(
        items=400, users=1000, width=16, leaves=8, branches=4, noise=0.4, skew=0.0, seed=0
    )
    config = PlantedConfig(leaves=8, steps=100, batch_size=64, dead_after=10, sgd_rate=0.3)
    truth = np.stack([drawn.items[drawn.leaf == leaf].mean(axis=0) for leaf in range(8)])
    assert measure_nodes(drawn, truth)["purity"] > 0.99
    off = {"balance_weight": 0.0, "dead_after": 0, "alpha_exponent": 0.0, "warmup_steps": 0}
    kept, lost = (
        measure_nodes(drawn, learn(drawn, config, optimizer="SGD", seed=0, **c).params["nodes"])
        for c in ({}, off)
    )
    assert kept["used_share"] > lost["used_share"]
    assert kept["purity"] > lost["purity"]
