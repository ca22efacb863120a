"""I2IF against a plain dict."""

import collections
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from hsnn_jax.monn import i2if
from hsnn_jax.monn.scorers import score_all

USERS, EVENTS, VALUES, VOCABULARY, ITEMS, HALF_LIFE = 5, 7, 2, 9, 4, 3.0


def drawn(seed):
    """Histories [B, L, A] with ages [B, L], and items [B, m, A]; unknown values on purpose."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-1, VOCABULARY, (USERS, EVENTS, VALUES))
    values[0] = -1  # a user without a history
    items = np.stack([rng.permutation(VOCABULARY + 1)[:3] - 1 for _ in range(USERS * ITEMS)])
    ages = rng.integers(0, 9, (USERS, EVENTS)).astype(np.float32)
    return values, ages, items.reshape(USERS, ITEMS, 3)


def slow(values, ages, items):
    """The cross features by loops over dicts."""
    features = np.zeros((USERS, items.shape[1], 4))
    for user in range(USERS):
        counts, recency = collections.Counter(), collections.defaultdict(float)
        for event in range(EVENTS):
            for value in values[user, event]:
                if value >= 0:
                    counts[value] += 1
                    recency[value] = max(recency[value], 0.5 ** (ages[user, event] / HALF_LIFE))
        total = max(sum(counts.values()), 1)
        for item in range(items.shape[1]):
            own = [value for value in items[user, item] if value >= 0]
            count = sum(counts[value] for value in own)
            latest = max((recency[value] for value in own), default=0.0)
            features[user, item] = count, count / total, math.log1p(count), latest
    return features


count_dense = jax.jit(functools.partial(i2if.count_dense, half_life=HALF_LIFE), static_argnums=1)
count_sparse = jax.jit(functools.partial(i2if.count_sparse, half_life=HALF_LIFE), static_argnums=1)
lookup = jax.jit(i2if.lookup)


def test_both_tables_give_what_a_dict_gives():
    for seed in range(5):
        values, ages, items = drawn(seed)
        expected = slow(values, ages, items)
        for table in (
            count_dense(values, VOCABULARY, ages=ages),
            count_sparse(values, VOCABULARY, ages=ages),  # cut to the keys there are
            count_sparse(values, EVENTS * VALUES + 3, ages=ages),  # padded
        ):
            np.testing.assert_allclose(lookup(table, items), expected, rtol=1e-6, atol=1e-7)


def test_without_ages_there_is_no_recency():
    values, ages, items = drawn(0)
    for table in (count_dense(values, VOCABULARY), count_sparse(values, VOCABULARY)):
        expected = slow(values, ages, items)[..., :3]
        np.testing.assert_allclose(lookup(table, items), expected, rtol=1e-6)


def test_a_sparse_table_keeps_the_most_frequent_keys_and_the_whole_total():
    values = np.array([[4, 7, 4, 2, 7, 4, 9, -1]])
    table = count_sparse(values, 3)
    assert table.keys.tolist() == [[2, 4, 7]]  # 2 and 9 occur once: the smaller one stays
    assert table.counts.tolist() == [[1, 3, 2]]
    assert table.total.tolist() == [7]
    found = lookup(table, np.array([[[4], [9], [-1], [3]]]))
    np.testing.assert_allclose(found[0, :, 1], [3 / 7, 0, 0, 0], rtol=1e-6)


def test_values_outside_the_vocabulary_are_absent():
    table = count_dense(np.array([[1, 5, -3, 1]]), 3)
    assert table.counts.tolist() == [[0, 2, 0]]
    assert table.total.tolist() == [2]
    assert lookup(table, np.array([[[1, 7], [7, -2]]]))[0, :, 0].tolist() == [2, 0]


def test_a_grid_of_users_and_items_never_holds_a_row_of_keys_for_every_pair():
    users, items, vocabulary = 64, 128, 1000
    values = jnp.zeros((items, 2), jnp.int32)
    tables = (
        count_dense(jnp.zeros((users, 5), jnp.int32), vocabulary),
        count_sparse(jnp.zeros((users, 5), jnp.int32), 5),
    )

    def log_count(params, users, items):
        return i2if.lookup(users, items)[..., 2]

    @jax.jit
    def grid(table, values):
        return score_all(log_count, None, users=table, items=values)

    for table in tables:
        compiled = grid.lower(table, values).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < users * items * vocabulary / 4
        found = grid(table, values)
        repeated = jnp.broadcast_to(values[None], (users, *values.shape))
        np.testing.assert_array_equal(found, lookup(table, repeated)[..., 2])
        np.testing.assert_array_equal(lookup(table, values[None]), lookup(table, repeated))
