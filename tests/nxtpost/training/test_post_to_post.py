from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.towers.model import NxtPost, NxtPostConfig
from nxtpost_jax.training.post_to_post import (
    co_engaged_pairs,
    log_shares,
    pair_batches,
    pair_loss,
    pretrain,
)

CLUSTERS, PER_CLUSTER, WIDTH = 6, 10, 24
ITEMS = CLUSTERS * PER_CLUSTER


def planted(seed=0):
    """Users who stay within a cluster of items, and content that tells it in 2 of 24 numbers.

    The rest of the content is louder and says nothing, so that cosines of content find no
    cluster: a tower has to learn which directions matter.
    """
    rng = np.random.default_rng(seed)
    cluster = np.arange(ITEMS) % CLUSTERS
    content = 3 * rng.normal(size=(ITEMS, WIDTH))
    angle = 2 * np.pi * cluster / CLUSTERS
    content[:, :2] = 6 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    users = np.repeat(np.arange(120), 8)
    items = rng.integers(0, PER_CLUSTER, len(users)) * CLUSTERS + users % CLUSTERS
    return Sequences.from_events(users, items), content.astype(np.float32), cluster


def recall(vectors, cluster, of=slice(None)):
    """The share of some items' 5 nearest others that users engage with together with them."""
    scores = np.array(vectors @ vectors.T)
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argsort(-scores, axis=1)[:, :5]
    return (cluster[nearest] == cluster[:, None])[of].mean()


def encode(model, params, content, ids=None):
    apply = jax.jit(partial(model.apply, method="encode_items"))
    return np.asarray(apply({"params": params}, content, ids))


@pytest.mark.parametrize("log_q", [False, True])
def test_co_engaged_posts_move_together_unseen_ones_too(log_q):
    """A third of the items has no event: only its content can tell."""
    train, content, cluster = planted()
    seen = train.items < 2 * ITEMS // 3
    train = Sequences.from_events(train.owners(np.arange(len(seen)))[seen], train.items[seen])
    model = NxtPost(NxtPostConfig(d_model=16, temperature=0.2))
    options = {"epochs": 20, "batch_size": 128, "tx": optax.adamw(1e-2), "log_q": log_q}
    tower, losses = pretrain(model, train, content=content, **options)
    assert losses[-1] < losses[0] - 0.3
    before = recall(content / np.linalg.norm(content, axis=1, keepdims=True), cluster)
    vectors = encode(model, {"post_tower": tower}, content)
    assert before < 0.4 and recall(vectors, cluster) > 0.6
    assert recall(vectors, cluster, slice(2 * ITEMS // 3, None)) > 0.5


def test_ids_alone_learn_too_and_ids_beside_content_stay_at_zero():
    train, content, cluster = planted()
    model = NxtPost(NxtPostConfig(d_model=16, temperature=0.2, id_embedding=True), ITEMS)
    tower, _ = pretrain(model, train, epochs=20, batch_size=128, tx=optax.adamw(1e-2))
    vectors = encode(model, {"post_tower": tower}, None, jnp.arange(ITEMS))
    assert recall(vectors, cluster) > 0.8
    tower, _ = pretrain(model, train, content=content, epochs=1)
    np.testing.assert_array_equal(tower["id_embedding"], 0)


def test_the_tower_fits_into_the_whole_model():
    train, content, _ = planted()
    model = NxtPost(NxtPostConfig(d_model=16, max_len=4, num_layers=1))
    histories = {"items": np.array([[1, 2, 3, -1]], np.int32)}
    params = jax.eval_shape(model.init, jax.random.key(0), histories, content)["params"]
    tower, _ = pretrain(model, train, content=content, epochs=1)
    chex.assert_trees_all_equal_shapes_and_dtypes(params["post_tower"], tower)
    again, _ = pretrain(model, train, content=content, epochs=1)
    jax.tree.map(np.testing.assert_array_equal, tower, again)


def test_pairs_are_near_events_of_one_user():
    rng = np.random.default_rng(0)
    users = np.sort(rng.integers(0, 9, 200))
    train = Sequences.from_events(users, np.arange(200) % 50)
    allowed = {
        (int(train.items[i]), int(train.items[j]))
        for i in range(200)
        for j in range(i + 1, min(i + 4, 200))
        if users[i] == users[j]
    }
    seen = set()
    for epoch in range(30):
        pairs = co_engaged_pairs(train, max_gap=3, seed=1, epoch=epoch)
        seen |= {tuple(pair) for pair in pairs.tolist()}
    assert seen == {pair for pair in allowed if pair[0] != pair[1]}
    again = co_engaged_pairs(train, max_gap=3, seed=1, epoch=29)
    np.testing.assert_array_equal(pairs, again)
    assert pairs.tolist() != co_engaged_pairs(train, max_gap=3, seed=2, epoch=29).tolist()


def test_batches_hold_every_pair_and_are_filled_up():
    pairs = np.arange(14).reshape(7, 2)
    batches = list(pair_batches(pairs, 3))
    assert [batch.shape for batch in batches] == [(3, 2)] * 3
    np.testing.assert_array_equal(np.concatenate(batches)[:7], pairs)
    np.testing.assert_array_equal(np.concatenate(batches)[7:], pairs[:2])


@pytest.mark.parametrize("log_q", [None, np.log(np.arange(1, 10) / 45)])
def test_the_loss_equals_a_loop_over_pairs(log_q):
    """Repeated items on either side, and a pair turned around, are no negatives of their own."""
    pairs = np.array([[0, 1], [0, 2], [3, 1], [1, 0], [4, 5], [5, 6]])
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, len(pairs), 4))
    values = []
    for queries, keys, column in ((left, right, 1), (right, left, 0)):
        for i in range(len(pairs)):
            logits = []
            for j in range(len(pairs)):
                if j == i or pairs[j, column] not in pairs[i]:
                    shift = 0 if log_q is None else log_q[pairs[j, column]]
                    logits.append((j == i, queries[i] @ keys[j] / 0.5 - shift))
            total = np.log(sum(np.exp(value) for _, value in logits))
            values.append(total - next(value for own, value in logits if own))
    found = pair_loss(
        jnp.asarray(left, jnp.float32),
        jnp.asarray(right, jnp.float32),
        pairs_Px2=jnp.asarray(pairs),
        temperature=0.5,
        log_q_N=None if log_q is None else jnp.asarray(log_q, jnp.float32),
    )
    np.testing.assert_allclose(found, np.mean(values), rtol=1e-5)


def test_shares_are_counts_with_at_least_one():
    train = Sequences.from_events([0, 0, 1, 1], [0, 0, 0, 2])
    np.testing.assert_allclose(np.exp(log_shares(train, 3)), [3 / 5, 1 / 5, 1 / 5], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs: expected at least 1, found 0"),
        ({"epochs": 1, "max_gap": 0}, "max_gap: expected at least 1, found 0"),
        ({"epochs": 1, "batch_size": 1}, "batch_size: expected at least 2, found 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    train, content, _ = planted()
    with pytest.raises(ValueError, match=message):
        pretrain(NxtPost(NxtPostConfig(d_model=4)), train, content=content, **options)


def test_users_of_one_item_each_give_no_pair():
    train = Sequences.from_events([0, 0, 1], [3, 3, 4])
    with pytest.raises(ValueError, match="expected two items of a user within 3, found none"):
        pretrain(NxtPost(NxtPostConfig(d_model=4)), train, content=planted()[1], epochs=1)
