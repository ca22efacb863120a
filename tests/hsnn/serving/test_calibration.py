"""What a calibration learns, and when there is none."""

import functools

import numpy as np
import pytest

from hsnn_jax import Features, LTIConfig, Pool, Retriever, Training, preset
from hsnn_jax.serving.calibration import calibrate, exact_scores
from tests.hsnn.planted import clusters, users_near

ITEMS, _ = clusters(0, items=3000, width=12, num_clusters=40, noise=0.7)
CONFIG = LTIConfig(num_nodes=48, kmeans_iterations=4)


@functools.cache
def built():
    retriever = Retriever(CONFIG)
    retriever.build_index(ITEMS)
    return retriever


def test_it_is_arrays_that_fall_and_rise():
    tail = built()._now.tail
    assert all(each.dtype == np.float32 for each in tail)
    assert tail.shape[2] < 0 and (tail.spread > 0).all()
    assert (np.diff(tail.raw) > 0).all() and (np.diff(tail.mapped) >= 0).all()
    assert (np.diff(tail.tolerances) > 0).all() and (np.diff(tail.reached) < 0).all()


def test_equal_seeds_learn_the_same():
    now, models = built()._now, built()._models
    one, other, third = (calibrate(now, models, seed=seed).tail for seed in (1, 1, 2))
    for a, b in zip(one, other):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.weights, third.weights)


def test_users_that_are_given_are_those_it_learns_from():
    users, _ = users_near(1, ITEMS, users=300, noise=2.0)
    given = calibrate(built()._now, built()._models, users=users).tail
    assert not np.array_equal(given.weights, built()._now.tail.weights)


@pytest.mark.parametrize(
    "options",
    [
        {"config": LTIConfig(num_nodes=(4, 4), kmeans_iterations=2), "nested": True},
        {"config": CONFIG, "candidates": Pool(64)},
        {"config": LTIConfig(num_nodes=3, kmeans_iterations=2)},
    ],
)
def test_what_it_does_not_cover_says_nan_and_refuses_a_wanted_recall(options):
    retriever = Retriever(options.pop("config"), **options)
    retriever.build_index(ITEMS[:400])
    answer = retriever.search(ITEMS[:5], 3, budget=20)
    np.testing.assert_array_equal(np.isnan(answer.recall), answer.unseen > 0)
    assert answer.unseen.any()
    with pytest.raises(ValueError, match="recall: expected an index that estimates it"):
        retriever.search(ITEMS[:5], 3, recall=0.9)


@pytest.mark.long
def test_a_model_is_calibrated_on_the_users_of_its_training():
    rng = np.random.default_rng(0)
    side = Features(dense={"vector": 12})
    model = preset("XS", user=side, item=side)
    retriever = Retriever(LTIConfig(num_nodes=16, kmeans_iterations=3), model=model)
    liked = rng.integers(0, 600, 200)
    users, items = {"vector": ITEMS[liked]}, {"vector": ITEMS[:600]}
    training = Training(steps=2, batch_size=16, negatives=16, progress=False)
    retriever.fit(users, items, positives=liked, training=training)
    answer = retriever.search(users, 5, budget=80)
    assert answer.unseen.all() and np.isfinite(answer.recall).all()
    exact = exact_scores(retriever._now, retriever._models, users=users).items
    least = -np.sort(-exact, axis=1)[:, 4:5]
    true = np.minimum((answer.scores >= least - 1e-5).sum(axis=1), 5) / 5
    assert abs(answer.recall.mean() - true.mean()) < 0.1
    retriever.build_index(items)  # nobody is given: nothing is claimed
    assert np.isnan(retriever.search(users, 5, budget=80).recall).all()
