"""A MoNN beside the inner product, and its cross."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.retrieval.residual_monn import CROSS, as_model, residual
from experiments.retrieval.searchers import (
    Exact,
)
from hsnn_jax.monn.network import init_monn


@pytest.mark.long
def test_a_cross_counts_the_neighbours_of_what_a_user_met(vectors):
    items, requests = vectors
    lists = np.full((3, 200, 2), -1, np.int32)
    lists[-1, :, 0] = np.arange(1, 201) % 200  # an item's one neighbour is the next
    lists[0, :, 0] = 7
    scorer = residual("S", 6, overarch="mlp", cross=True)
    params = {"scale": jnp.ones(()), "gain": jnp.ones(())}
    params["monn"] = init_monn(jax.random.key(0), scorer.config)
    model = as_model("", scorer, params=params, item_vectors=items, lists=lists)
    found = Exact("", model).search(requests, 5, budget=0)
    users = model.encode_users(requests)
    counts = np.asarray(users["monn"]["counts"][CROSS].counts)
    np.testing.assert_array_equal(counts, np.eye(200)[(np.arange(12) + 1) % 200])
    # In training a user reads the lists of its fold.
    met, fold = jnp.asarray(requests.exclude), jnp.zeros(12, jnp.int32)
    assert set(np.nonzero(scorer.counts(jnp.asarray(lists), fold, met=met).counts)[1].tolist()) == {
        7
    }
    scores = scorer(params, users, jax.tree.map(lambda x: x[None], model.items))
    none = np.full_like(lists, -1)
    blind = as_model("", scorer, params=params, item_vectors=items, lists=none)
    blind = blind.encode_users(requests)
    moved = scores - scorer(params, blind, jax.tree.map(lambda x: x[None], model.items))
    counted = np.abs(moved) > 1e-4
    np.testing.assert_array_equal(counted, counts > 0)
    barred = np.asarray(scores.at[np.arange(12), np.arange(12)].set(-np.inf))
    np.testing.assert_array_equal(found.ids, np.argsort(-barred, axis=1)[:, :5])


def test_with_a_half_life_the_cross_knows_how_long_ago_an_item_was_met():
    lists = jnp.tile(((jnp.arange(20, dtype=jnp.int32) + 1) % 20)[None, :, None], (3, 1, 1))
    met = jnp.asarray([[4, 9, 4, -1], [-1, -1, -1, -1]])
    scorer = residual("S", 6, cross=True, half_life=2.0)
    assert scorer.config.recency
    table = scorer.counts(lists, jnp.asarray([-1, -1]), met=met)
    recency, counts = np.zeros((2, 20)), np.zeros((2, 20))
    recency[0, [5, 10]] = 1, 2**-0.5
    counts[0, [5, 10]] = 2, 1
    np.testing.assert_allclose(table.recency, recency, rtol=1e-6)
    np.testing.assert_array_equal(table.counts, counts)
    assert (
        residual("S", 6, cross=True).counts(lists, jnp.asarray([-1, -1]), met=met).recency is None
    )
