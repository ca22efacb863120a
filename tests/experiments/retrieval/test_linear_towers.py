"""Linear towers, trained alone or with the nodes."""

import jax
import numpy as np

from experiments.data.drawn import planted_tree
from experiments.retrieval.linear_towers import Vectors, adapt
from hsnn_jax.nodes.lti import LTIConfig


def test_joint_training_moves_nodes_and_towers_and_separate_has_no_nodes():
    drawn = planted_tree(items=100, users=200, width=8, leaves=4, branches=2, seed=0)
    vectors = Vectors(drawn.users, drawn.liked, drawn.items)
    config = LTIConfig(num_nodes=4, total_steps=5, warmup_steps=1, num_negatives=8)
    train = lambda **options: adapt(  # noqa: E731
        vectors, config, rate=1e-2, key=jax.random.key(0), batch_size=16, **options
    )
    joint, alone = train(joint=True), train(joint=False)
    start = train(joint=True, steps=0)
    assert set(alone.params) == {"user", "item"}
    for name in ("user", "item", "nodes"):
        assert np.abs(joint.params[name] - start.params[name]).max() > 1e-3, name
    assert np.abs(joint.params["item"] - alone.params["item"]).max() > 1e-4
    more = train(joint=True, steps=1, start=joint)
    assert 0 < np.abs(more.params["nodes"] - joint.params["nodes"]).max() < 0.1
    np.testing.assert_allclose(np.linalg.norm(joint.items(drawn.items), axis=1), 1, atol=1e-5)
