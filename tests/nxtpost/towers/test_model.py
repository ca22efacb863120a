import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nxtpost_jax.events.sequences import PAD
from nxtpost_jax.towers.model import NxtPost, NxtPostConfig
from nxtpost_jax.towers.post_tower import kept_channels

N, C, L = 30, 12, 9
SMALL = NxtPostConfig(
    d_model=16, num_heads=2, max_len=L, id_embedding=True, id_dropout=0.5, num_actions=3
)
VARIANTS = {
    "gated": SMALL,
    "transformer": dataclasses.replace(SMALL, block="transformer"),
    "content only": dataclasses.replace(SMALL, id_embedding=False),
}


def drawn_histories(lengths, width=L, seed=0):
    rng = np.random.default_rng(seed)
    valid = np.arange(width)[None, :] < np.array(lengths)[:, None]
    return {
        "items": np.where(valid, rng.integers(0, N, valid.shape), PAD).astype(np.int32),
        "times": np.where(valid, rng.exponential(1e3, valid.shape), 0).astype(np.float32),
        "actions": np.where(valid, rng.integers(0, 3, valid.shape), 0).astype(np.int32),
    }


def drawn_content(rows=N, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, C)), jnp.float32)


def jitted(model):
    return jax.jit(model.apply, static_argnames=("method", "deterministic"))


def set_up(config, histories, content=None, num_items=N):
    """Draw parameters, none of them zero."""
    model = NxtPost(config, num_items)
    params = jax.jit(model.init)(jax.random.key(0), histories, content)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys)]
    return model, jax.tree.unflatten(tree, noisy)


def test_vectors_are_of_unit_length():
    histories, content = drawn_histories([L, 2]), drawn_content()
    model, params = set_up(SMALL, histories, content)
    apply = jitted(model)
    users = apply({"params": params}, histories, content)
    items = apply({"params": params}, content, jnp.arange(N), method="encode_items")
    for vectors in (users, items):
        np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=-1), 1, atol=1e-5)


def test_both_ways_of_looking_items_up_agree():
    """A catalogue larger than the batch is gathered before it is encoded, a small one after."""
    histories = drawn_histories([L, 4])
    small, large = drawn_content(), drawn_content(500)
    large = large.at[:N].set(small)
    model, params = set_up(SMALL, histories, small)
    apply = jitted(model)
    small_first = apply({"params": params}, histories, small)
    large_first = apply({"params": params}, histories, large)
    np.testing.assert_allclose(small_first, large_first, atol=1e-5)


def test_id_dropout_serves_an_item_by_its_content_alone():
    histories, content = drawn_histories([L]), drawn_content()
    model, params = set_up(SMALL, histories, content)
    apply = jitted(model)
    variables = {"params": params}
    with_id = apply(variables, content, jnp.arange(N), method="encode_items")
    without = apply(variables, content, None, method="encode_items")
    trained = apply(
        variables,
        content,
        jnp.arange(N),
        deterministic=False,
        rngs={"dropout": jax.random.key(3)},
        method="encode_items",
    )
    distance_to_with = np.abs(trained - with_id).max(axis=1)
    distance_to_without = np.abs(trained - without).max(axis=1)
    dropped = distance_to_without < 1e-6
    np.testing.assert_array_equal(dropped, distance_to_with > 1e-3)
    assert 0.2 < dropped.mean() < 0.8


def test_channel_dropout_serves_an_item_by_its_other_channels():
    histories = drawn_histories([L, 4])
    content = {name: drawn_content(seed=k).at[:5].set(k % 2) for k, name in enumerate("abc")}
    config = dataclasses.replace(SMALL, channel_dropout=0.5, id_dropout=0.0, dropout=0.0)
    model, params = set_up(config, histories, content)
    apply = jitted(model)

    def encoded(content, *ids, deterministic=True, seed=3):
        rngs = None if deterministic else {"dropout": jax.random.key(seed)}
        given = {"deterministic": deterministic, "rngs": rngs, "method": "encode_batch"}
        return apply({"params": params}, histories, ids, content=content, **given)

    ids, others = jnp.arange(N), jnp.tile(jnp.arange(N)[::-1], 9)  # the other way of a look-up
    trained = encoded(content, ids, ids[::-1], deterministic=False)
    np.testing.assert_array_equal(trained.items[0], trained.items[1][::-1])
    known = {name: np.asarray(each.any(axis=1)) for name, each in content.items()}
    found = np.full(N, -1)
    for number in range(1, 8):  # which channels are read, as bits
        read = [number >> k & 1 for k in range(3)]
        some = {name: each * bit for (name, each), bit in zip(content.items(), read)}
        near = np.abs(trained.items[0] - encoded(some, ids).items[0]).max(axis=1) < 1e-5
        holds = np.any([known[name] * bit for name, bit in zip("abc", read)], axis=0)
        found[near & holds] = number
    assert found.min() > 0  # each by some of its channels, those that have one alone too
    assert len({*found[5:].tolist()}) >= 5
    read = {name: (found >> k & 1)[:, None] for k, name in enumerate("abc")}
    thinned = {name: each * read[name] for name, each in content.items()}
    np.testing.assert_allclose(trained.pooled_BxD, encoded(thinned).pooled_BxD, atol=1e-5)
    again = encoded(content, others, deterministic=False)
    np.testing.assert_allclose(again.items[0][:N], trained.items[0][::-1], atol=1e-5)
    assert np.abs(
        encoded(content, ids, deterministic=False, seed=4).items[0] - trained.items[0]
    ).any()


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.999])
def test_a_share_of_channels_is_left_out_and_one_stays(rate):
    there = jax.random.bernoulli(jax.random.key(0), 0.6, (4000, 5))
    draws = jax.random.uniform(jax.random.key(1), there.shape)
    kept = np.asarray(kept_channels(there, draws, rate=rate))
    there, draws = np.asarray(there), np.asarray(draws)
    assert not (kept & ~there).any()
    np.testing.assert_array_equal(kept.any(axis=1), there.any(axis=1))
    alone = there & (draws < rate) & kept  # the last of an item's
    np.testing.assert_array_equal(kept.sum(axis=1)[alone.any(axis=1)], 1)
    assert (kept & ~alone).sum() / there.sum() == pytest.approx(1 - rate, abs=0.02)


def test_event_dropout_hides_what_was_engaged_with_and_not_how():
    histories, content = drawn_histories([L, 4]), drawn_content()
    others = histories | {"items": np.where(histories["items"] == PAD, PAD, 3)}
    acted = histories | {"actions": (histories["actions"] + 1) % 3}
    hidden = dataclasses.replace(SMALL, event_dropout=0.999, id_dropout=0.0, dropout=0.0)
    model, params = set_up(hidden, histories, content)
    apply = jitted(model)

    def states(rows, deterministic):
        rngs = {"dropout": jax.random.key(0)}
        given = {"deterministic": deterministic, "rngs": rngs, "method": "encode_users"}
        return np.asarray(apply({"params": params}, rows, content, **given))

    np.testing.assert_array_equal(states(histories, False), states(others, False))
    assert np.abs(states(histories, False) - states(acted, False)).max() > 1e-3
    assert np.abs(states(histories, True) - states(others, True)).max() > 1e-3


def test_items_beyond_the_id_table_are_known_by_content():
    histories, content = drawn_histories([L]), drawn_content(N + 5)
    model, params = set_up(SMALL, histories, content)
    apply = jitted(model)
    ids = jnp.arange(N + 5)
    with_id = apply({"params": params}, content, ids, method="encode_items")
    without = apply({"params": params}, content, None, method="encode_items")
    np.testing.assert_allclose(with_id[N:], without[N:], atol=1e-6)
    assert np.abs(with_id[:N] - without[:N]).max(axis=1).min() > 1e-3


def test_ids_start_at_zero_beside_content_and_drawn_alone():
    for content, zero in ((drawn_content(), True), (None, False)):
        params = NxtPost(SMALL, N).init(
            jax.random.key(0), content, jnp.arange(N), method="encode_items"
        )["params"]
        assert bool((params["post_tower"]["id_embedding"] == 0).all()) is zero


def test_parameters_do_not_grow_with_the_catalogue_without_ids():
    histories = drawn_histories([L])
    model = NxtPost(VARIANTS["content only"])
    shapes = [
        jax.eval_shape(model.init, jax.random.key(0), histories, drawn_content(rows))
        for rows in (N, 10 * N)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 0}, "d_model: expected at least 1, found 0"),
        ({"dropout": 1.0}, r"dropout: expected a rate in \[0, 1\), found 1.0"),
        ({"num_heads": 5}, "num_heads: expected a divisor of d_model=64, found 5"),
        ({"temperature": 0.0}, "temperature: expected above 0, found 0.0"),
        ({"num_surfaces": -1}, "num_surfaces: expected at least 0, found -1"),
        ({"static_sizes": (3, 0)}, "static_sizes: expected at least 1, found 0"),
        ({"pooling": "max"}, "pooling: expected 'last' or 'mean' or 'attention', found 'max'"),
        ({"similarity": "l2"}, "similarity: expected 'cosine' or 'dot', found 'l2'"),
        (
            {"time_concat": True, "time_features": False},
            "time_concat: expected time_features beside it, found them off",
        ),
        (
            {"num_actions": 3, "action_weights": (1.0,)},
            "action_weights: expected num_actions=3 of them, found 1",
        ),
        ({"block": "rnn"}, "block: expected 'transformer' or 'gated', found 'rnn'"),
    ],
)
def test_bad_configs_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NxtPostConfig(**options)


def test_a_model_that_knows_nothing_of_its_items_is_refused():
    histories = drawn_histories([L])
    with pytest.raises(ValueError, match="content: expected a matrix when id_embedding is off"):
        NxtPost(VARIANTS["content only"], N).init(jax.random.key(0), histories, None)
    with pytest.raises(ValueError, match="num_items: expected the number of ids, found None"):
        NxtPost(SMALL).init(jax.random.key(0), histories, None)
    with pytest.raises(ValueError, match=f"expected at most {L} columns"):
        NxtPost(SMALL, N).init(jax.random.key(0), drawn_histories([L], L + 1), None)
