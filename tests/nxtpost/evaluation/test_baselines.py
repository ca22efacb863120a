import gzip
from pathlib import Path

import numpy as np
import pytest

from nxtpost_jax.evaluation.baselines import (
    content_knn,
    item_knn,
    markov,
    popularity,
    recent_popularity,
)
from nxtpost_jax.evaluation.ranking import evaluate, last_times
from nxtpost_jax.events.sequences import Sequences, pad_histories
from nxtpost_jax.events.splits import Queries, leave_one_out

N = 15
ML_1M = Path(__file__).parents[4] / "shared/data/ml-1m-sasrec/ml-1m.txt.gz"


@pytest.fixture
def sequences():
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(20), rng.integers(0, 25, 20))
    return Sequences.from_events(users, rng.integers(0, N, len(users)), num_users=20)


def naive_markov(train, history):
    """Follow the definition pair by pair in float64."""
    weight, count = np.zeros((N, N)), np.zeros(N)
    for user in range(len(train)):
        events = train[user]
        for t, item in enumerate(events):
            count[item] += 1
            for gap in (1, 2, 3):
                if t + gap < len(events):
                    weight[item, events[t + gap]] += 1 / gap
    table = weight / (weight.sum(axis=1, keepdims=True) + 5) / (count + 1)[None, :] ** 0.3
    recent = list(reversed(history))[:10]
    return sum((0.7**age * table[item] for age, item in enumerate(recent)), np.zeros(N))


def test_markov_equals_its_definition(sequences):
    scores = markov(sequences, N)(pad_histories(sequences, 25))
    for user in range(len(sequences)):
        np.testing.assert_allclose(
            scores[user], naive_markov(sequences, sequences[user]), rtol=1e-5
        )


def test_markov_of_fewer_events_than_a_gap():
    train = Sequences.from_events([0, 0], [1, 2])
    scores = markov(train, 3)(pad_histories(train, 2))
    assert scores.argmax() == 2


def test_item_knn_equals_the_cosine_of_user_sets(sequences):
    owners = np.zeros((len(sequences), N))
    for user in range(len(sequences)):
        owners[user, sequences[user]] = 1
    norms = np.maximum(np.linalg.norm(owners, axis=0), 1e-9)
    cosine = owners.T @ owners / norms[:, None] / norms[None, :]
    np.fill_diagonal(cosine, 0)
    scores = item_knn(sequences, N, last=25)(pad_histories(sequences, 25))
    for user in range(len(sequences)):
        expected = cosine[sequences[user]].sum(axis=0)
        np.testing.assert_allclose(scores[user], expected, rtol=1e-5, atol=1e-6)


def test_item_knn_keeps_the_nearest_only(sequences):
    every = item_knn(sequences, N, last=1)(pad_histories(sequences, 25))
    few = item_knn(sequences, N, last=1, neighbours=2)(pad_histories(sequences, 25))
    asked = sequences.lengths > 0
    assert ((few[asked] > 0).sum(axis=1) == 2).all()
    np.testing.assert_allclose(few.max(axis=1), every.max(axis=1))


def test_content_knn_equals_its_definition(sequences):
    content = np.random.default_rng(1).normal(size=(N, 4))
    unit = content / np.linalg.norm(content, axis=1, keepdims=True)
    scores = content_knn(content)(pad_histories(sequences, 25))
    for user in range(len(sequences)):
        recent = sequences[user][::-1][:10]
        expected = unit @ (0.7 ** np.arange(len(recent)) @ unit[recent])
        np.testing.assert_allclose(scores[user], expected, atol=1e-5)


def test_popularity_counts_training_events(sequences):
    scores = popularity(sequences, N)(pad_histories(sequences, 3))
    np.testing.assert_array_equal(scores[5], np.bincount(sequences.items, minlength=N))


def test_an_item_beyond_the_catalogue_is_refused(sequences):
    for baseline in (popularity, markov, item_knn):
        with pytest.raises(ValueError, match="items: expected ids below 14, found 14"):
            baseline(sequences, 14)


@pytest.mark.skipif(not ML_1M.exists(), reason="needs MovieLens-1M as SASRec distributes it")
def test_published_figures_on_movielens():
    """Popularity and skip-3 Markov: all items ranked, seen ones left out, test = last event."""
    with gzip.open(ML_1M) as file:
        events = np.array(file.read().split(), np.int64).reshape(-1, 2) - 1
    sequences = Sequences.from_events(events[:, 0], events[:, 1])
    split = leave_one_out(sequences)
    expected = {popularity: (0.0369, 0.0180), markov: (0.2623, 0.1503)}
    for baseline, figures in expected.items():
        metrics = evaluate(baseline(split.train, 3416), split.test, max_len=10, bootstrap=0)
        assert (metrics["hr@10"], metrics["ndcg@10"]) == pytest.approx(figures, abs=5e-5)


def test_recent_popularity_counts_the_week_before_the_query():
    rng = np.random.default_rng(0)
    times = rng.integers(0, 30, 80) * 1.0
    log = Sequences.from_events(rng.integers(0, 6, 80), rng.integers(0, N, 80), times=times)
    histories = pad_histories(log, 3)
    moments = np.array([0.0, 5, 7, 12, 29, 400])
    scores = recent_popularity(log, N, window=7)(histories | {"query_times": moments})
    for row, moment in enumerate(moments):
        inside = (log.times >= moment - 7) & (log.times < moment)
        np.testing.assert_array_equal(scores[row], np.bincount(log.items[inside], minlength=N))


def test_recent_popularity_knows_its_queries_moments():
    log = Sequences.from_events([0, 0, 1, 1], [1, 2, 2, 3], times=[0.0, 8, 9, 10])
    queries = Queries(log.select([0, 1]), [2, 3], [0, 1])
    scorer = recent_popularity(log, 5, window=5)
    metrics = evaluate(
        scorer,
        queries,
        max_len=2,
        seen_filter=False,
        query_times=last_times(queries.histories) + 1,
        bootstrap=0,
    )
    # At 9: item 2 once, the others never. At 11: 2 twice and 3 once.
    assert metrics.ranks.tolist() == [1, 2]
    with pytest.raises(ValueError, match="query_times: expected them in the call of evaluate"):
        evaluate(scorer, queries, max_len=2)
    with pytest.raises(ValueError, match="log: expected times, found none"):
        recent_popularity(Sequences([1], [0, 1]), 5)
    with pytest.raises(ValueError, match="window: expected seconds above 0, found 0"):
        recent_popularity(log, 5, window=0)
    with pytest.raises(ValueError, match="histories: expected times, found none"):
        last_times(Sequences([1], [0, 1]))
    with pytest.raises(ValueError, match="histories: expected an event with a time, found none in"):
        last_times(Sequences([1], [0, 1, 1], times=[0.0]))
