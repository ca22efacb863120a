"""Rivals that score every item, against numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.retrieval.rivals import Asked, choose
from experiments.retrieval.score_rivals import (
    OfScores,
    WithCrosses,
    fit_weights,
    untrained_rivals,
    with_crosses,
)
from experiments.retrieval.searchers import Requests, dot_model
from experiments.retrieval.untrained_rivals import best_unseen, untrained
from hsnn_jax.monn import i2if
from hsnn_jax.monn.scorers import dot


@pytest.fixture(scope="module")
def toy():
    """Items, users, and what a history says of items: the sum of its ids' rows of a table."""
    rng = np.random.default_rng(3)
    items, users = (rng.normal(size=(n, 4)).astype(np.float32) for n in (30, 300))
    met = np.where(rng.random((300, 3)) < 0.8, rng.integers(0, 30, (300, 3)), -1)
    met = -np.sort(-met, axis=1)  # -1 last
    table = rng.normal(size=(30, 30)).astype(np.float32)

    def scores(histories):
        own = histories["items"]
        return np.where((own >= 0)[:, :, None], table[own], 0).sum(axis=1)

    return items, Requests(users, met[:, :1].astype(np.int32), met.astype(np.int32)), scores


def best(scores, exclude, k):
    scores = scores.copy()
    rows = np.flatnonzero(exclude[:, 0] >= 0)
    scores[rows, exclude[rows, 0]] = -np.inf
    return np.argsort(-scores, axis=1)[:, :k]


def scaled(x):
    return (x - x.mean(1, keepdims=True)) / np.maximum(x.std(1, keepdims=True), 1e-9)


@pytest.mark.parametrize("weight", [None, 0.5, 4.0])
def test_a_function_of_histories_counts_beside_the_two_tower(toy, weight):
    items, requests, scores = toy
    own = scores({"items": requests.met})
    if weight is None:
        searcher, expected = OfScores("markov", lambda: scores), own
    else:
        searcher = OfScores("both", lambda: scores, dot_model(items), weight)
        expected = weight * scaled(own) + scaled(requests.users @ items.T)
    searcher.build()
    found = searcher.search(requests, 5, budget=0)
    np.testing.assert_array_equal(found.ids, best(expected, requests.exclude, 5))
    assert found.items_scored == 30
    if weight is None:
        assert np.isnan(found.flops)
    else:
        assert found.flops == pytest.approx((2 * 4 + 2) * 30, rel=0.1)


def test_weights_of_crosses_are_found_where_they_are_known():
    rng = np.random.default_rng(0)
    base, features = rng.normal(size=(6000, 12)), rng.normal(size=(6000, 12, 2))
    true = np.array([1.5, -0.7])
    logits = base + features @ true
    # What is liked is drawn by the true odds and put into column 0.
    liked = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    order = np.argsort(np.arange(12)[None, :] != liked[:, None], axis=1, kind="stable")
    base = np.take_along_axis(base, order, axis=1)
    features = np.take_along_axis(features, order[:, :, None], axis=1)
    np.testing.assert_allclose(fit_weights(base, features), true, atol=0.1)


def test_features_that_say_nothing_get_no_weight():
    base = np.random.default_rng(1).normal(size=(50, 6))
    features = np.stack([np.ones((50, 6)), np.zeros((50, 6))], axis=2)
    np.testing.assert_allclose(fit_weights(base, features), 0, atol=1e-6)


def test_the_scorer_with_crosses_adds_a_weight_times_the_statistic():
    rng = np.random.default_rng(2)
    users, items = (rng.normal(size=(n, 3)).astype(np.float32) for n in (5, 7))
    values = rng.integers(0, 4, (7, 1))
    history = rng.integers(0, 4, (5, 6))
    scorer = WithCrosses(dot, ("kind",), 2)
    params = {"tower": None, "weights": jnp.array([2.0])}
    counts = {"kind": i2if.count_dense(history, 4)}
    read = {"tower": jnp.asarray(items)[None], "attributes": {"kind": jnp.asarray(values)[None]}}
    found = scorer(params, {"tower": jnp.asarray(users), "counts": counts}, read)
    times = (history[:, None, :] == values[None, :, :]).sum(axis=2)
    np.testing.assert_allclose(found, users @ items.T + 2 * np.log1p(times), rtol=1e-5, atol=1e-5)


def test_without_crosses_there_is_no_such_rival(toy):
    model = dot_model(toy[0])
    rival = with_crosses(model, model, crosses=(), weights=lambda statistic: np.zeros(0))
    assert rival.reason == "n/a: the data have no crosses" and not rival.settings


def test_untrained_rivals_answer_as_their_scores_do(examples):
    rows = examples.next_liked(1)[:40]
    met = examples.liked_before(rows, length=50)
    asked = [Asked(Requests({}, examples.seen(rows), met), examples.items[rows])]
    rivals = {rival.name: rival for rival in untrained_rivals(examples)}
    assert list(rivals) == ["popularity", "Markov", "item-KNN"]
    searcher, budget = rivals["Markov"].built("max_gap 3")
    found = searcher.search(asked[0].requests, 10, budget=budget).ids
    wanted = best_unseen(untrained("Markov", examples), examples, rows, k=10)
    np.testing.assert_array_equal(found, wanted)
    assert choose(rivals["popularity"], asked, k=10, trials=2) == "as it is"
    assert choose(rivals["Markov"], asked, k=10, trials=2) in ("max_gap 3", "max_gap 10")
