"""The loss of a model that reads trends: each label at its own moment."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nxtpost_jax.training.losses import loss
from nxtpost_jax.training.negatives import log_popularity
from tests.nxtpost.configurations import N
from tests.nxtpost.slow_losses import (
    Slow,
    Tables,
    drawn_batch,
    drawn_sequences,
    drawn_tables,
    drawn_trends,
)
from tests.nxtpost.training.test_losses import OBJECTIVES

TRENDING = ("uniform logq", "gbce", "smoothed", "mixed, smoothed")


@pytest.mark.parametrize("name", TRENDING)
def test_loss_with_trends_equals_a_slow_one(name):
    """Each label at its own moment."""
    objective, moments = OBJECTIVES[name], 5
    batch = drawn_batch(objective.num_labels, moments=moments)
    tables, key = drawn_tables(batch), jax.random.key(3)
    candidates = np.unique(drawn_sequences().items)
    popularity, trends = log_popularity(drawn_sequences(), N), drawn_trends(moments)
    fast = partial(loss, Tables(trends=True), objective=objective)
    given = {"candidates": candidates, "log_popularity": popularity, "trends": trends}
    value, _ = jax.jit(fast)(tables, batch=batch, content=None, key=key, **given)
    slow = Slow(objective, tables, batch, key, candidates, np.exp(popularity), trends).value()
    np.testing.assert_allclose(value, slow, rtol=1e-5)


def test_a_full_softmax_with_trends_in_passes_is_the_one_at_once(monkeypatch):
    moments, objective = 5, OBJECTIVES["full softmax"]
    batch = drawn_batch(objective.num_labels, moments=moments)
    tables, trends = drawn_tables(batch), jnp.asarray(drawn_trends(moments))

    def gradients():
        def value(tables):
            given = {"batch": batch, "content": None, "key": jax.random.key(0), "trends": trends}
            return loss(Tables(trends=True), tables, objective=objective, **given)[0]

        return jax.value_and_grad(value)(tables)

    at_once = gradients()
    monkeypatch.setattr("nxtpost_jax.training.full_softmax._CACHED", 7 * N)
    for found, expected in zip(jax.tree.leaves(gradients()), jax.tree.leaves(at_once)):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_trends_are_for_models_that_read_them():
    batch = drawn_batch(1, moments=2)
    given = {"batch": batch, "content": None, "key": jax.random.key(0)}
    tables = drawn_tables(batch)
    with pytest.raises(ValueError, match=r"^trends: expected None beside a model without, found"):
        loss(Tables(), tables, trends=drawn_trends(2), **given)
    with pytest.raises(ValueError, match=r"^trends: expected those of a model with them, found"):
        loss(Tables(trends=True), tables, **given)
