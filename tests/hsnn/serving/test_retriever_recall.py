"""An answer knows what it may have missed, and a search stops where it has missed little."""

import functools

import numpy as np
import pytest

from hsnn_jax import LTIConfig, Retriever
from hsnn_jax.serving import find as finding
from tests.hsnn.planted import clusters, same_answers, users_near

K = 10
ITEMS, CLUSTER = clusters(0, items=3000, width=12, num_clusters=40, noise=0.7)
USERS, _ = users_near(7, ITEMS, users=256, noise=0.9)


@functools.cache
def built():
    retriever = Retriever(LTIConfig(num_nodes=48, kmeans_iterations=4))
    retriever.build_index(ITEMS)
    return retriever


def truth(answer, users, *, allowed=None, k=K):
    """The share of the exact answer that is there, ties by score."""
    scores = users @ ITEMS.T
    if allowed is not None:
        rest = np.setdiff1d(np.arange(len(ITEMS)), allowed)
        scores[:, rest] = -np.inf
    best = min(k, len(ITEMS) if allowed is None else len(allowed))
    least = -np.sort(-scores, axis=1)[:, best - 1 : best]
    return np.minimum((answer.scores >= least - 1e-6).sum(axis=1), best) / best


def test_an_estimate_is_a_share_one_per_user_and_one_where_all_was_seen():
    answer = built().search(USERS[:37], K, budget=200)
    assert answer.recall.shape == (37,) and answer.recall.dtype == np.float32
    assert (answer.recall >= 0).all() and (answer.recall <= 1).all()
    assert built().search(USERS[:0], K).recall.shape == (0,)
    whole = built().search(USERS[:5], K, budget=len(ITEMS))
    np.testing.assert_array_equal(whole.recall, 1.0)
    few = built().search(USERS[:5], K, allowed=np.arange(50))
    np.testing.assert_array_equal(few.recall, 1.0)


def test_more_items_scored_are_more_recall_in_the_mean():
    means = [built().search(USERS, K, budget=b).recall.mean() for b in (100, 200, 400, 1000)]
    assert (np.diff(means) > 0).all()


def test_an_estimate_does_not_depend_on_the_batch():
    whole = built().search(USERS, K, budget=200).recall
    alone = [built().search(USERS[i : i + 1], K, budget=200).recall[0] for i in range(4)]
    np.testing.assert_allclose(alone, whole[:4], atol=1e-4)


def allowed_by(kind, share, rng):
    """The rows that a filter allows which no calibration has seen: by an attribute of the items."""
    direction = USERS[0]
    size = int(share * len(ITEMS))
    if kind == "random":
        return rng.choice(len(ITEMS), size, replace=False)
    like = ITEMS @ direction * (1 if kind == "correlated" else -1)
    return np.argsort(-(like + 0.3 * rng.standard_normal(len(ITEMS))))[:size]


@pytest.mark.parametrize("kind", ["none", "random", "correlated", "opposed"])
def test_estimates_are_near_the_truth(kind):
    """Brier score a fifth below the best constant's; few claim .95 and have less than .9."""
    near = USERS[np.argsort(-(USERS @ USERS[0]))[:128]]
    estimates, truths = [], []
    for share in (0.1, 0.01) if kind != "none" else (1,):
        rng = np.random.default_rng(3)
        allowed = None if kind == "none" else allowed_by(kind, share, rng)
        now, models = built()._now, built()._models
        asked = built()._asked(now, near, k=K, allowed=allowed)
        for budget in (100, 250, 600):
            options = {"asked": asked, "max_beam": None, "switch": False}
            found = finding.find(now, models, budget=budget, **options)
            estimates.append(found.recall)
            truths.append(truth(found, near, allowed=allowed))
    estimate, true = np.concatenate(estimates), np.concatenate(truths)
    assert true.std() > 0.1
    assert np.mean((estimate - true) ** 2) < 0.8 * true.var()
    assert np.mean((estimate >= 0.95) & (true < 0.9)) <= 0.02
    assert abs(estimate.mean() - true.mean()) < 0.05


def test_a_wanted_recall_is_estimated_by_every_answer():
    for wanted in (0.8, 0.95):
        answer = built().search(USERS, K, recall=wanted)
        assert (answer.recall >= wanted).all()
        assert truth(answer, USERS).mean() > wanted
        assert answer.items_scored.mean() < 0.6 * len(ITEMS)


def test_a_wanted_recall_beats_a_fixed_budget_of_equal_cost():
    answer = built().search(USERS, K, recall=0.9)
    cost = answer.items_scored.mean()
    budgets = range(int(cost), 2 * int(cost), 10)
    fixed = next(
        found
        for found in (built().search(USERS, K, budget=budget) for budget in budgets)
        if found.items_scored.mean() >= cost
    )
    mine, other = truth(answer, USERS), truth(fixed, USERS)
    assert (mine < 0.9).mean() < (other < 0.9).mean()


def test_a_budget_limits_a_wanted_recall():
    answer = built().search(USERS[:20], K, recall=0.999, budget=150)
    assert (answer.recall < 0.999).any()
    rounds = answer.items_scored / 150
    assert rounds.max() <= 3


@pytest.mark.parametrize("wanted", [0, 1.0, 1.5, "0.9", True, float("nan")])
def test_a_recall_is_between_none_and_all(wanted):
    with pytest.raises(ValueError, match="recall: expected a number above 0 and below 1"):
        built().search(USERS[:1], K, recall=wanted)


def test_each_user_may_have_a_filter():
    rng = np.random.default_rng(0)
    allowed = np.stack([rng.choice(len(ITEMS), 600, replace=False) for _ in range(9)])
    allowed[:6, 50:] = -1  # few: scored together; the others go through the nodes
    exclude = allowed[:, :3]
    for options in ({}, {"exclude": exclude}):
        several = built().search(USERS[:9], K, budget=400, allowed=allowed, **options)
        for user in range(9):
            own = {name: value[user : user + 1] for name, value in options.items()}
            rows = allowed[user][allowed[user] >= 0]
            alone = built().search(USERS[user : user + 1], K, budget=400, allowed=rows, **own)
            np.testing.assert_array_equal(several.ids[user], alone.ids[0])
            np.testing.assert_allclose(several.scores[user], alone.scores[0], rtol=1e-5)
            np.testing.assert_allclose(several.recall[user], alone.recall[0], atol=1e-4)
    np.testing.assert_array_equal(several.recall[:6], 1.0)
    assert (several.unseen[6:] > 0).all()


def test_a_filter_of_each_user_may_repeat_miss_or_be_empty():
    allowed = np.array([[5, 5, 7, -1], [-1, -1, -1, -1], [10**9, 8, 8, 8]])
    answer = built().search(USERS[:3], 3, allowed=allowed)
    assert [sorted(i for i, _ in answer.pairs(user)) for user in range(3)] == [[5, 7], [], [8]]
    np.testing.assert_array_equal(answer.recall, 1.0)
    with pytest.raises(ValueError, match=r"allowed: expected ids of shape \[m\] or \[3, m\]"):
        built().search(USERS[:3], 3, allowed=allowed[:2])


def test_ids_that_are_words_may_be_allowed_per_user():
    retriever = Retriever(LTIConfig(num_nodes=4, kmeans_iterations=2))
    retriever.build_index(ITEMS[:80], item_ids=[f"item {i}" for i in range(80)])
    allowed = [["item 3", "item 9"], ["item 4", None]]
    answer = retriever.search(USERS[:2], 2, allowed=allowed)
    assert set(answer.ids[0]) == {"item 3", "item 9"} and set(answer.ids[1]) == {"item 4", None}


def test_a_folder_keeps_the_calibration_and_one_without_says_nan(tmp_path):
    built().save(tmp_path / "index")
    loaded = Retriever.load(tmp_path / "index")
    same_answers(loaded.search(USERS, K, budget=200), built().search(USERS, K, budget=200))
    loaded._now = loaded._now._replace(tail=None)  # as one of an earlier version
    loaded.save(tmp_path / "older")
    older = Retriever.load(tmp_path / "older").search(USERS, K, budget=200)
    np.testing.assert_array_equal(np.isnan(older.recall), older.unseen > 0)


def test_updates_keep_the_calibration():
    retriever = Retriever(LTIConfig(num_nodes=48, kmeans_iterations=4))
    retriever.build_index(ITEMS[:2000], reserve=1500)
    retriever.add(ITEMS[2000:], np.arange(2000, 3000))
    answer = retriever.search(USERS, K, budget=200)
    true = truth(answer, USERS)
    assert np.mean((answer.recall - true) ** 2) < 0.8 * true.var()
