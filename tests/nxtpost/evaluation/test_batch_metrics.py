import jax.numpy as jnp
import numpy as np
import pytest

from nxtpost_jax.evaluation.batch_metrics import batch_ranks, batch_recall, knn_hits
from nxtpost_jax.events.sequences import PAD


def drawn_scores(labels, rows, seed=0, levels=4):
    """Few levels, so that ties occur; columns of one item agree."""
    of_items = np.random.default_rng(seed).integers(0, levels, (rows, 10)).astype(np.float32)
    return of_items[:, labels]


def slow_ranks(scores, labels):
    ranks = []
    for b, label in enumerate(labels):
        score_of = {item: scores[b, j] for j, item in enumerate(labels) if item != PAD}
        own = score_of.pop(label, None)
        ranks.append(0 if label == PAD else 1 + sum(s >= own for s in score_of.values()))
    return np.array(ranks)


@pytest.mark.parametrize("seed", range(5))
def test_ranks_equal_a_loop_over_distinct_labels(seed):
    labels = np.random.default_rng(seed).integers(PAD, 8, 12).astype(np.int32)
    assert len(set(labels.tolist())) < len(labels)
    scores = drawn_scores(labels, len(labels), seed)
    ranks = slow_ranks(scores, labels.tolist())
    np.testing.assert_array_equal(batch_ranks(scores, labels), ranks)
    for k in (1, 3):
        expected = (ranks[ranks > 0] <= k).mean()
        np.testing.assert_allclose(batch_recall(scores, labels, k=k), expected, rtol=1e-6)


def test_equal_scores_for_all_are_no_success():
    labels = np.arange(6)
    assert batch_recall(np.zeros((6, 6)), labels, k=5) == 0
    assert batch_recall(np.eye(6), labels, k=1) == 1
    assert batch_recall(np.zeros((2, 2)), np.array([4, 4]), k=1) == 1  # no rival at all
    assert batch_recall(np.zeros((2, 2)), np.array([PAD, PAD]), k=1) == 0


@pytest.mark.parametrize("k", [1, 4, 9])
def test_hits_equal_a_loop_over_users(k):
    rng = np.random.default_rng(k)
    users, items = rng.normal(size=(7, 3)), rng.normal(size=(9, 3))
    labels = rng.integers(PAD, 9, (7, 5))
    labels[0], labels[1] = PAD, [3, 3, PAD, 3, 3]
    found = knn_hits(jnp.asarray(users), jnp.asarray(items), labels_Bxm=jnp.asarray(labels), k=k)
    for b in range(7):
        best = np.argsort(-(items @ users[b]))[:k].tolist()
        expected = len(set(best) & set(labels[b].tolist())) if (labels[b] != PAD).any() else -1
        assert found[b] == expected
    assert found[0] == -1 and found[1] <= 1
