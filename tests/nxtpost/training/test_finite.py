"""Training that diverges stops in one line, and nothing of it is kept."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.events.splits import leave_one_out
from nxtpost_jax.serving.recommender import Recommender
from nxtpost_jax.towers.model import NxtPost, NxtPostConfig
from nxtpost_jax.training.finite import check_arrays, check_losses
from nxtpost_jax.training.post_to_post import pretrain
from tests.nxtpost.small_recommender import drawn

N = 24
TINY = NxtPostConfig(d_model=8, num_layers=1, max_len=8, dropout=0.0)
CONTENT = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
DIVERGING = optax.sgd(1e30)


def walks(num_users=16, length=6):
    items = (np.arange(num_users)[:, None] + np.arange(length)) % N
    return Sequences.from_events(np.repeat(np.arange(num_users), length), items.ravel())


def diverges(recommender, message, **options):
    options = {"epochs": 1, "batch_size": 16, "num_negatives": 8} | options
    with pytest.raises(FloatingPointError, match=message) as caught:
        recommender.fit(walks(), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({}, "at step 0 after the last epoch; lower the learning rate"),
        ({"epochs": 2}, "at step 0 of epoch 1"),
        ({"batch_size": 8}, "at step 1 of epoch 0"),
        ({"validation": leave_one_out(walks()).validation}, ""),
    ],
)
def test_a_diverging_fit_keeps_the_model_before(options, where):
    recommender = drawn(TINY, CONTENT)
    recommender.tx = DIVERGING
    before = recommender.recommend([[1, 2, 3]], 3)
    diverges(
        recommender,
        f"expected (a )?finite numbers?, found (nan|NaN or infinity).*{where}",
        **options,
    )
    after = recommender.recommend([[1, 2, 3]], 3)
    np.testing.assert_array_equal(after.ids, before.ids)
    np.testing.assert_array_equal(after.scores, before.scores)


def test_a_first_fit_that_diverges_leaves_the_recommender_unfitted():
    recommender = Recommender(TINY, CONTENT, tx=DIVERGING)
    diverges(recommender, "loss: expected a finite number, found nan")
    with pytest.raises(ValueError, match="expected a fitted one"):
        recommender.recommend([[1]], 1)


def test_infinite_parameters_are_named():
    recommender = Recommender(TINY, CONTENT, tx=optax.sgd(np.inf))
    diverges(
        recommender, "params: expected finite numbers, found NaN or infinity in [a-z_/]+ of epo"
    )


def test_a_diverging_pretraining_stops():
    with pytest.raises(
        FloatingPointError, match="loss: expected a finite number, found nan at step"
    ):
        pretrain(NxtPost(TINY), walks(), content=CONTENT, epochs=3, batch_size=16, tx=DIVERGING)


def test_no_request_is_answered_by_nan():
    recommender = drawn(TINY, CONTENT)
    recommender.recommend([[1]], 1)
    tower = recommender.params["user_tower"]
    broken = recommender.params | {"user_tower": tower | {"positions": tower["positions"] * np.nan}}
    recommender._served.replace(broken, recommender.catalogue)
    with pytest.raises(FloatingPointError, match="scores: expected finite numbers, found NaN"):
        recommender.recommend([[1], [2]], 2)


def test_what_is_finite_passes():
    check_losses(np.array([1.0, 0.0]))
    check_arrays("params", {"a": jnp.zeros(3), "b": [jnp.ones(())]})
    with pytest.raises(FloatingPointError, match="found inf at step 1"):
        check_losses(np.array([1.0, np.inf, np.nan]))
    with pytest.raises(FloatingPointError, match=r"params: expected .* infinity in b/c$"):
        check_arrays("params", {"a": jnp.zeros(3), "b": {"c": jnp.array([1, np.inf])}})
