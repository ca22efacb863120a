import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxtpost_jax.ranking import evaluate, metrics_of_ranks, rank_of_targets, unique_items
from nxtpost_jax.sequences import PAD, Sequences
from nxtpost_jax.splits import Queries


def naive_rank(scores, target, seen):
    """Sort what may be recommended, best first, the target behind its equals."""
    if target in seen or np.isnan(scores[target]):
        return len(scores)
    candidates = [item for item in range(len(scores)) if item not in seen]
    candidates.sort(key=lambda item: (-np.nan_to_num(scores[item], nan=np.inf), item == target))
    return candidates.index(target) + 1


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_rank_equals_a_sort(data):
    B, N, S = 3, 7, 4
    numbers = st.sampled_from([-1.0, 0.0, 0.5, 2.0, np.nan])
    scores = np.array(data.draw(st.lists(numbers, min_size=B * N, max_size=B * N)), np.float32)
    scores = scores.reshape(B, N)
    targets = np.array(data.draw(st.lists(st.integers(0, N - 1), min_size=B, max_size=B)))
    seen = np.full((B, S), PAD)
    for row in seen:
        items = data.draw(st.lists(st.integers(0, N - 1), unique=True, max_size=S))
        row[: len(items)] = items
    expected = [naive_rank(s, t, set(i.tolist()) - {PAD}) for s, t, i in zip(scores, targets, seen)]
    assert np.asarray(rank_of_targets(scores, targets, seen)).tolist() == expected


def test_ties_count_against_the_target():
    ranks = rank_of_targets(np.zeros((1, 5), np.float32), np.array([2]), np.array([[0, PAD]]))
    assert ranks.tolist() == [4]


def test_metrics_follow_from_ranks():
    metrics = metrics_of_ranks([1, 3, 11, 2], ks=(2, 10), bootstrap=0)
    assert metrics["hr@2"] == 0.5
    assert metrics["hr@10"] == 0.75
    assert metrics["ndcg@10"] == pytest.approx((1 + 1 / np.log2(4) + 1 / np.log2(3)) / 4)
    assert metrics["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 11 + 1 / 2) / 4)


def test_the_bootstrap_gives_the_standard_error_of_a_mean():
    hits = np.random.default_rng(0).random(2000) < 0.3
    metrics = metrics_of_ranks(np.where(hits, 1, 100), bootstrap=500)
    expected = hits.std() / np.sqrt(len(hits))
    assert metrics.standard_errors["hr@10"] == pytest.approx(expected, rel=0.15)


def test_unique_items_lists_each_once():
    histories = Sequences.from_events([0, 0, 0, 2], [5, 1, 5, 0])
    assert unique_items(histories, 3).tolist() == [[1, 5, PAD], [PAD] * 3, [0, PAD, PAD]]


@pytest.mark.parametrize("seen_filter", [True, False])
def test_evaluation_in_batches_equals_one_user_at_a_time(seen_filter):
    rng = np.random.default_rng(0)
    N, lengths = 12, rng.integers(1, 9, 11)
    users = np.repeat(np.arange(11), lengths)
    histories = Sequences.from_events(users, rng.integers(0, N, len(users)))
    queries = Queries(histories, rng.integers(0, N, 11), np.arange(11))
    table = rng.integers(0, 4, (N, N)).astype(np.float32)  # few values, many ties

    def scores_fn(batch):
        assert batch["items"].shape == (4, 3)
        last = np.maximum((batch["items"] != PAD).sum(axis=1) - 1, 0)
        return table[batch["items"][np.arange(4), last]]

    metrics = evaluate(
        scores_fn, queries, max_len=3, batch_size=4, seen_filter=seen_filter, bootstrap=2
    )
    for user in range(11):
        seen = set(histories[user].tolist()) if seen_filter else set()
        expected = naive_rank(table[histories[user][-1]], queries.targets[user], seen)
        assert metrics.ranks[user] == expected


def test_what_cannot_be_ranked_is_refused():
    queries = Queries(Sequences.from_events([0], [1]), [9], [0])
    with pytest.raises(ValueError, match=r"targets: expected items below 5, .*found 9"):
        evaluate(lambda batch: np.zeros((1, 5), np.float32), queries, max_len=2)
    with pytest.raises(ValueError, match="queries: expected at least one, found none"):
        metrics_of_ranks([])
    with pytest.raises(ValueError, match=r"ks: expected cut-offs of at least 1, found \(0,\)"):
        metrics_of_ranks([1], ks=(0,))
