import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxtpost_jax.evaluation.metrics import harmonic_mean, inverse_propensity, paired_difference
from nxtpost_jax.evaluation.ranking import (
    best_of_scores,
    evaluate,
    last_times,
    metrics_of_ranks,
    rank_of_targets,
    unique_items,
)
from nxtpost_jax.events.sequences import PAD, Sequences
from nxtpost_jax.events.splits import Queries


def naive_rank(scores, target, seen, allowed=None):
    """Sort what may be recommended, best first, the target behind its equals."""
    allowed = range(len(scores)) if allowed is None else allowed
    if target in seen or np.isnan(scores[target]):
        return len(allowed)
    candidates = [item for item in allowed if item not in seen]
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
    rows = [(s, t, set(i.tolist()) - {PAD}) for s, t, i in zip(scores, targets, seen)]
    expected = [naive_rank(*row) for row in rows]
    assert np.asarray(rank_of_targets(scores, targets, seen_BxS=seen)).tolist() == expected
    others = data.draw(st.sets(st.integers(0, N - 1)))
    allowed = sorted(others | set(targets.tolist()))
    expected = [naive_rank(*row, allowed) for row in rows]
    mask = np.isin(np.arange(N), allowed)
    assert (
        np.asarray(rank_of_targets(scores, targets, seen_BxS=seen, candidates_N=mask)).tolist()
        == expected
    )


def test_ties_count_against_the_target():
    ranks = rank_of_targets(
        np.zeros((1, 5), np.float32), np.array([2]), seen_BxS=np.array([[0, PAD]])
    )
    assert ranks.tolist() == [4]


def test_metrics_are_shown_without_the_ranks_behind_them():
    shown = repr(metrics_of_ranks(np.array([1, 7]), ks=(10,), users=np.array([0, 1])))
    assert "mrr" in shown
    assert "ranks" not in shown
    assert "users" not in shown


def test_metrics_follow_from_ranks():
    metrics = metrics_of_ranks([1, 3, 11, 2], ks=(2, 10), bootstrap=0)
    assert metrics["hr@2"] == 0.5
    assert metrics["hr@10"] == 0.75
    assert metrics["ndcg@10"] == pytest.approx((1 + 1 / np.log2(4) + 1 / np.log2(3)) / 4)
    assert metrics["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 11 + 1 / 2) / 4)
    assert metrics["mlrr"] == pytest.approx(-np.log(3 * 11 * 2) / 4)


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


def drawn_queries(num_items=12, num_queries=11, users=None):
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(num_queries), rng.integers(1, 9, num_queries))
    histories = Sequences.from_events(owners, rng.integers(0, num_items, len(owners)))
    users = np.arange(num_queries) if users is None else users
    return Queries(histories, rng.integers(0, num_items, num_queries), users)


def table_scores(num_items=12):
    table = np.random.default_rng(1).normal(size=(num_items, num_items)).astype(np.float32)

    def scores_fn(batch):
        last = np.maximum((batch["items"] != PAD).sum(axis=1) - 1, 0)
        return table[batch["items"][np.arange(len(last)), last]]

    return scores_fn


@pytest.mark.parametrize("as_mask", [True, False])
def test_only_candidates_are_ranked_and_shown(as_mask):
    queries, scores_fn = drawn_queries(), table_scores()
    allowed = np.union1d(queries.targets, [0])
    candidates = np.isin(np.arange(12), allowed) if as_mask else allowed
    metrics = evaluate(
        scores_fn,
        queries,
        max_len=9,
        batch_size=4,
        ks=(1, 3),
        candidates=candidates,
        coverage=True,
        bootstrap=2,
    )
    shown = {1: set(), 3: set()}
    for user in range(len(queries)):
        seen = set(queries.histories[user].tolist())
        scores = scores_fn({"items": queries.histories[user][None]})[0]
        assert metrics.ranks[user] == naive_rank(scores, queries.targets[user], seen, allowed)
        order = [i for i in np.argsort(-scores) if i in allowed and i not in seen]
        for k in shown:
            shown[k] |= set(order[:k])
    for k in shown:
        assert metrics[f"coverage@{k}"] == len(shown[k]) / len(allowed)


def test_coverage_changes_no_other_figure():
    queries, scores_fn = drawn_queries(), table_scores()
    plain = evaluate(scores_fn, queries, max_len=9, bootstrap=3)
    more = evaluate(scores_fn, queries, max_len=9, bootstrap=3, coverage=True)
    assert {name: more[name] for name in plain.values} == plain.values
    assert more.standard_errors == plain.standard_errors
    assert 0 < more["coverage@10"] <= 1


def test_a_target_outside_the_candidates_is_refused():
    queries = Queries(Sequences.from_events([0], [1]), [2], [0])
    scores_fn = table_scores()
    with pytest.raises(ValueError, match="targets: expected candidates, found item 2"):
        evaluate(scores_fn, queries, max_len=2, candidates=[0, 1])
    with pytest.raises(ValueError, match=r"candidates: expected items below 12, .*found 2\.\.12"):
        evaluate(scores_fn, queries, max_len=2, candidates=[2, 12])
    with pytest.raises(ValueError, match=r"candidates: expected bool\[12\], found bool\[3\]"):
        evaluate(scores_fn, queries, max_len=2, candidates=np.ones(3, bool))


def test_backfilled_items_are_scored_but_seen_by_nobody():
    queries = Queries(Sequences(np.zeros(0), [0, 0]), [3], [0])
    seen = []

    def scores_fn(batch):
        seen.append(batch["items"].tolist())
        return np.eye(5, dtype=np.float32)[[3]]

    def backfill(histories):
        return Sequences([3, 4], [0, 2])

    metrics = evaluate(scores_fn, queries, max_len=3, backfill=backfill, bootstrap=0)
    assert seen == [[[3, 4, PAD]]]
    assert metrics.ranks.tolist() == [1]


def test_the_best_of_scores_are_a_sort():
    scores = np.array([[1.0, 5, 3, 4], [9, 8, 7, 6]], np.float32)
    left_out = np.array([[1, PAD], [PAD, PAD]])
    ids, best = best_of_scores(scores, left_out, allowed_N=np.array([True, True, True, False]), k=3)
    assert np.asarray(ids).tolist() == [[2, 0, PAD], [0, 1, 2]]
    assert np.asarray(best).tolist() == [[3, 1, -np.inf], [9, 8, 7]]


def test_debiased_ndcg_weighs_rare_targets_more():
    queries, counts = drawn_queries(), np.arange(12) ** 2
    metrics = evaluate(
        table_scores(), queries, max_len=9, popularity=counts, debias_power=0.7, bootstrap=50
    )
    weights = [1 / (counts[target] + 1) ** 0.7 for target in queries.targets]
    gains = [1 / np.log2(rank + 1) if rank <= 10 else 0 for rank in metrics.ranks]
    expected = sum(w * g for w, g in zip(weights, gains)) / sum(weights)
    assert metrics["debiased_ndcg@10"] == pytest.approx(expected)
    assert metrics.standard_errors["debiased_ndcg@10"] > 0
    plain = evaluate(table_scores(), queries, max_len=9, popularity=counts, debias_power=0)
    assert plain["debiased_ndcg@10"] == pytest.approx(plain["ndcg@10"])
    with pytest.raises(ValueError, match="power: expected at least 0, found -1"):
        inverse_propensity(counts, queries.targets, power=-1)


def test_queries_of_one_user_are_resampled_together():
    ranks = np.repeat(np.where(np.random.default_rng(0).random(400) < 0.4, 1, 100), 5)
    alone = metrics_of_ranks(ranks, bootstrap=300)
    grouped = metrics_of_ranks(ranks, users=np.repeat(np.arange(400), 5), bootstrap=300)
    assert grouped.values == pytest.approx(alone.values)
    ratio = grouped.standard_errors["hr@10"] / alone.standard_errors["hr@10"]
    assert ratio == pytest.approx(np.sqrt(5), rel=0.15)


def test_a_paired_difference_has_the_error_of_the_differences():
    rng = np.random.default_rng(0)
    one, other = rng.integers(1, 30, 1500), rng.integers(1, 30, 1500)
    other = np.where(rng.random(1500) < 0.8, one, other)  # most queries alike
    first, second = (metrics_of_ranks(ranks, bootstrap=0) for ranks in (one, other))
    found = paired_difference(first, second, name="hr@10", bootstrap=400)
    deltas = (one <= 10).astype(float) - (other <= 10)
    assert found.mean == pytest.approx(deltas.mean())
    assert found.mean == pytest.approx(first["hr@10"] - second["hr@10"])
    assert found.standard_error == pytest.approx(deltas.std() / np.sqrt(1500), rel=0.15)
    reverse = paired_difference(second, first, name="hr@10", bootstrap=400)
    assert found.share_at_most_zero + reverse.share_at_most_zero == pytest.approx(1, abs=0.05)
    better = metrics_of_ranks(np.ones(1500), bootstrap=0)
    assert paired_difference(better, second, name="mrr").share_at_most_zero == 0
    assert paired_difference(first, first, bootstrap=2).share_at_most_zero == 1


def test_what_cannot_be_paired_is_refused():
    one = metrics_of_ranks([1, 2], bootstrap=0)
    with pytest.raises(ValueError, match="other: expected metrics of the same 2 queries, found 3"):
        paired_difference(one, metrics_of_ranks([1, 2, 3], bootstrap=0))
    left, right = (metrics_of_ranks([1, 2], users=u, bootstrap=0) for u in ([0, 1], [0, 2]))
    with pytest.raises(ValueError, match="other: expected metrics of the same users"):
        paired_difference(left, right)
    expected = "name: expected 'hr@k', 'ndcg@k', 'mrr' or 'mlrr', found 'hit'"
    with pytest.raises(ValueError, match=expected):
        paired_difference(one, one, name="hit")
    with pytest.raises(ValueError, match="bootstrap: expected at least 2 resamples, found 1"):
        paired_difference(one, one, bootstrap=1)


def test_the_harmonic_mean_needs_both():
    assert harmonic_mean(0.3, 0.6) == pytest.approx(0.4)
    assert harmonic_mean(0.3, 0.0) == 0


def test_a_query_is_asked_at_its_last_event():
    log = Sequences([1, 2, 3, 4], [0, 1, 4], times=[5.0, 7.0, 8.0, 11.0])
    np.testing.assert_array_equal(last_times(log), [5.0, 11.0])
    with pytest.raises(ValueError, match=r"^histories: expected times, found none$"):
        last_times(Sequences([1], [0, 1]))
    empty = Sequences([1], [0, 1, 1, 1], times=[5.0])
    with pytest.raises(ValueError, match=r"^histories: expected an event .* in number 1$"):
        last_times(empty)


def test_a_target_right_beyond_the_scores_is_refused():
    queries = Queries(Sequences([1], [0, 1]), np.array([4]), np.array([0]))

    def scores(histories):
        return np.zeros((len(histories["items"]), 4), np.float32)

    with pytest.raises(ValueError, match=r"^targets: expected items below 4, .*, found 4$"):
        evaluate(scores, queries, max_len=2)


def test_each_query_has_a_moment_where_one_has():
    queries = Queries(Sequences([1, 2], [0, 1, 2]), np.array([0, 1]), np.array([0, 1]))
    asked = []

    def scores(histories):
        asked.extend(histories["query_times"])
        return np.zeros((len(histories["items"]), 4), np.float32)

    evaluate(scores, queries, max_len=2, query_times=[5.0, 7.0])
    assert asked == [5.0, 7.0]
    with pytest.raises(ValueError, match=r"^query_times: expected 2, found 1$"):
        evaluate(scores, queries, max_len=2, query_times=[5.0])
