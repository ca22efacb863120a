"""The operations that a search reports are those of its scorers, the user's part among them."""

import jax.numpy as jnp
import numpy as np
import pytest

from hsnn_jax.descent.search import brute_force, search
from hsnn_jax.lists.index import pack
from hsnn_jax.monn.scorers import dot
from tests.hsnn.descent.test_search import ITEMS, NODES, WIDTH, integer_problem


@pytest.mark.parametrize("held", ["rows", "tiles"])
def test_flops_count_what_a_scorer_does_once_per_user(held):
    """Without that part, the cost of a scorer with a large user side would be a fraction of it."""

    def projected(params, users, items):
        return dot(None, jnp.tanh(users @ params["wide"]) @ params["back"], items)

    index, items, users = integer_problem(8)
    rng = np.random.default_rng(0)
    params = {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32)
        for name, shape in (("wide", (WIDTH, 50)), ("back", (50, WIDTH)))
    }
    once = 2 * 50 * WIDTH + 2 * WIDTH * 50  # two products; tanh is a transcendental, not counted
    features = items if held == "rows" else pack(index, items)
    found = search(
        projected, params, index=index, items=features, users=users, k=5, budget=ITEMS, max_beam=3
    )
    scores = np.tanh(users @ params["wide"]) @ params["back"] @ index.nodes.T
    best = np.argsort(-np.asarray(scores), axis=1, kind="stable")[:, :3]
    slots = 8 * np.ceil(np.asarray(index.counts)[best] / 8).sum(axis=1)
    # The nodes' scorer and the items' each do it for every user.
    np.testing.assert_array_equal(found.flops, 2 * once + 2 * WIDTH * (NODES + slots))
    whole = brute_force(projected, params, items=items, users=users, k=5)
    np.testing.assert_array_equal(whole.flops, once + 2 * WIDTH * ITEMS)
