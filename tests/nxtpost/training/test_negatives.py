from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nxtpost_jax.events.sequences import PAD, Sequences
from nxtpost_jax.training.negatives import (
    Negatives,
    allowed,
    draw_in_batch,
    draw_uniform,
    join,
    log_expected_counts,
    log_popularity,
)

LABELS = np.array([[3, 5, PAD], [3, 3, 8], [PAD, PAD, PAD], [1, PAD, PAD]], np.int32)
USERS = np.array([7, 2, 4, 7], np.int32)


def pairs(negatives):
    return sorted(zip(*(np.asarray(part).tolist() for part in negatives)))


def every_label():
    return sorted((i, u) for row, u in zip(LABELS.tolist(), USERS.tolist()) for i in row if i >= 0)


def test_uniform_negatives_are_the_candidates_each_as_likely():
    candidates = jnp.array([2, 3, 5, 7])
    drawn = draw_uniform(jax.random.key(0), candidates, 8000)
    ids, counts = np.unique(drawn.ids_N, return_counts=True)
    np.testing.assert_array_equal(ids, candidates)
    np.testing.assert_allclose(counts / 8000, 0.25, atol=0.02)
    assert (np.asarray(drawn.owners_N) == -1).all()


@pytest.mark.parametrize("count", [6, 9, 1000])
def test_all_labels_of_the_batch_are_taken_where_there_is_room(count):
    drawn = draw_in_batch(jax.random.key(0), LABELS, USERS, count)
    assert len(drawn.ids_N) == min(count, LABELS.size)
    real = np.asarray(drawn.ids_N) != PAD
    assert pairs(Negatives(*(part[real] for part in drawn))) == every_label()


def test_a_sample_of_labels_is_without_replacement_and_even():
    places = np.arange(12, dtype=np.int32).reshape(3, 4)  # each label tells its place
    labels = np.where(places == 5, PAD, places)
    draw = jax.jit(lambda key: draw_in_batch(key, labels, np.arange(3), 5))
    counts = np.zeros(12)
    drawn = jax.device_get(jax.vmap(draw)(jax.random.split(jax.random.key(1), 2000)))
    for ids, owners in zip(*drawn):
        assert len(set(ids.tolist())) == 5 and PAD not in ids
        np.testing.assert_array_equal(owners, ids // 4)
        counts[ids] += 1
    np.testing.assert_allclose(counts[counts > 0] / 2000, 5 / 11, atol=0.05)


def test_a_users_own_posts_are_no_in_batch_negatives():
    in_batch = draw_in_batch(jax.random.key(0), LABELS, USERS, 100)
    negatives = join(in_batch, draw_uniform(jax.random.key(1), 9, 30))
    own = np.array([[8, 3, 5], [0, 3, 8], [PAD, PAD, PAD], [1, 2, PAD]], np.int32)
    found = np.asarray(jax.jit(allowed)(negatives, USERS, own))
    for j, (item, owner) in enumerate(zip(*map(np.asarray, negatives))):
        for b in range(len(USERS)):
            uniform = owner == -1
            expected = item != PAD and (uniform or (owner != USERS[b] and item not in own[b]))
            assert found[b, j] == expected
    # Row 0 may not have the label 1 of row 3: both are user 7's, and 1 is not in row 0.
    assert found.any() and not found[0, : LABELS.size][np.asarray(in_batch.ids_N) == 1].any()


def test_popularity_counts_labels():
    sequences = Sequences([4, 1, 1, 1, 2, 4, 0], [0, 3, 3, 6, 7])
    shares = np.exp(log_popularity(sequences, 6))
    np.testing.assert_allclose(shares, np.array([1, 2, 1, 1, 1, 1]) / 4, rtol=1e-6)
    assert log_popularity(sequences, 6).dtype == np.float32
    with pytest.raises(ValueError, match="num_items: expected at least 5, found 3"):
        log_popularity(sequences, 3)
    one = log_popularity(Sequences([2, 1], [0, 2]), 3)  # the only label is item 1
    np.testing.assert_array_equal(one, np.zeros(3))


def test_the_corrected_sum_over_all_labels_counts_each_item_once():
    """Exact where the popularity is that of the batch: every item's expected count is its count."""
    items, counts = np.unique(LABELS[LABELS != PAD], return_counts=True)
    popularity = np.full(9, -50.0, np.float32)
    popularity[items] = np.log(counts / counts.sum())
    drawn = draw_in_batch(jax.random.key(0), LABELS, USERS, 100)
    shift = log_expected_counts(drawn, 9, jnp.asarray(popularity))
    logits = np.random.default_rng(0).normal(size=9)
    real = np.asarray(drawn.ids_N) != PAD
    total = np.exp(logits[drawn.ids_N] - np.asarray(shift))[real].sum()
    np.testing.assert_allclose(total, np.exp(logits[items]).sum(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["uniform", "mixed"])
def test_the_corrected_sum_estimates_the_sum_over_the_catalogue(kind):
    catalogue = 6
    rng = np.random.default_rng(0)
    logits = rng.normal(size=catalogue)
    share = np.array([0.4, 0.3, 0.1, 0.1, 0.05, 0.05])

    @jax.jit
    @partial(jax.vmap)
    def estimate(key):
        label_key, batch_key, uniform_key = jax.random.split(key, 3)
        drawn = draw_uniform(uniform_key, catalogue, 4)
        popularity = None
        if kind == "mixed":
            labels = jax.random.choice(label_key, catalogue, (3, 4), p=jnp.asarray(share))
            drawn = join(drawn, draw_in_batch(batch_key, labels, jnp.arange(3), 5))
            popularity = jnp.log(jnp.asarray(share))
        shift = log_expected_counts(drawn, catalogue, popularity)
        return jnp.sum(jnp.exp(jnp.asarray(logits)[drawn.ids_N] - shift))

    totals = np.asarray(estimate(jax.random.split(jax.random.key(2), 1000)), np.float64)
    error = totals.std() / np.sqrt(len(totals))
    assert abs(totals.mean() - np.exp(logits).sum()) < 4 * error
    assert error < 0.03 * totals.mean()
