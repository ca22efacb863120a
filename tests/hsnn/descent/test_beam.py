"""Which nodes a search visits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsnn_jax.descent import beam as route
from hsnn_jax.lists.index import build_index

USERS = 9
MANY = [0.02, 0.6, 1.0]  # of the nodes, how many have items left for a user


@pytest.mark.parametrize(
    "budget, shares",
    [(3, MANY), (40, MANY), (300, MANY), (2000, MANY), (2000, [0.02])],
    ids=["3", "40", "300", "2000", "few left"],
)
def test_putting_few_nodes_in_order_gives_the_beam_of_all_in_order(budget, shares, monkeypatch):
    rng = np.random.default_rng(budget)
    items = rng.normal(size=(1500, 3)).astype(np.float32)
    index = build_index(items, rng.normal(size=(150, 3)).astype(np.float32), slack=3)
    scores = jnp.asarray(rng.integers(0, 40, (USERS, 150)), jnp.float32)  # with ties
    left = jnp.asarray(rng.random((USERS, 150)) < rng.choice(shares, (USERS, 1)))
    found = route.Candidates(None, scores, scores[..., None])
    budgets = jnp.full(USERS, budget).at[0].set(0)

    def beam(few):
        monkeypatch.setattr(route, "_FEW", few)
        # A new function each time, so that it is traced anew.
        visit = jax.jit(lambda f, i, left, b: route.route(f, i, left=left, budget=b, max_beam=150))
        visit = functools.partial(visit, found, index, left.astype(jnp.int32))
        return jax.device_get(visit(budgets))

    short, whole = beam(2), beam(150)
    visited = whole.extents > 0
    np.testing.assert_array_equal(short.extents, whole.extents)
    np.testing.assert_array_equal(short.items, whole.items)
    for one, other in zip(short, whole):
        if one.ndim > 1:
            np.testing.assert_array_equal(one[visited], other[visited])
    assert (whole.items[1:] > 0).any() or budget == 3
