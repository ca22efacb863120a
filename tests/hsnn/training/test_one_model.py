"""A MoNN trained from features on a drawn problem whose cross matters."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from hsnn_jax import LTIConfig, Retriever, Training, preset
from hsnn_jax.monn import i2if
from hsnn_jax.monn import network as monn
from hsnn_jax.monn.calibration import calibration, normalised_entropy
from hsnn_jax.monn.config import Features, TowerConfig
from hsnn_jax.training.optimizers import made

ITEMS, CATEGORIES, PAIRS = 200, 40, 2000
TOWER = TowerConfig(field_width=8, dense_fields=2, num_layers=0)
MODEL = preset(
    "S",
    user=Features(dense={"taste": 4}),
    item=Features(dense={"text": 4}),
    crosses=("category",),
    num_user=1,
    width=8,
    overarch="dot",
    **dict.fromkeys(("user_tower", "item_tower", "interaction_tower"), TOWER),
)
TRAINING = Training(steps=150, evaluate_every=50, batch_size=64, negatives=32, progress=False)
TX, STILL = optax.adam(1e-2), optax.sgd(0.0)
CONFIG = LTIConfig(num_nodes=8, kmeans_iterations=3)


@functools.cache
def drawn(seed=0):
    """Users like items of like text, of a category that they have met: (users, items, positives).

    Categories say nothing about texts, so that no product of towers without ids can tell them.
    """
    rng = np.random.default_rng(seed)
    text = np.random.default_rng(9).normal(size=(ITEMS, 4)).astype(np.float32)
    category = np.arange(ITEMS) % CATEGORIES
    taste = rng.normal(size=(PAIRS, 4)).astype(np.float32)
    history = rng.integers(0, CATEGORIES, (PAIRS, 6))
    met = (category[None, None, :] == history[:, :, None]).any(axis=1)
    odds = taste @ text.T + 4.0 * met + rng.gumbel(size=(PAIRS, ITEMS))
    counts = jax.device_get(i2if.count_dense(history, CATEGORIES))
    users = {"taste": taste}, {"category": counts}
    return users, ({"text": text}, {"category": category[:, None]}), odds.argmax(axis=1)


def trained(**options):
    users, items, positives = drawn()
    retriever = Retriever(CONFIG, model=MODEL)
    options = {"training": TRAINING, "positives": positives, "tx": TX} | options
    return retriever, retriever.fit(users, items, **options)


@functools.cache
def fitted():
    log = []
    training = dataclasses.replace(TRAINING, log=log.append)
    return (*trained(training=training, reserve=2), log)


def fresh_recall(find):
    """Share of other users' items that `find` has among the ten best."""
    users, _, positives = drawn(1)
    users, positives = jax.tree.map(lambda x: x[:500], (users, positives))
    return (find(users) == positives[:, None]).any(axis=1).mean()


def test_ten_lines_beat_the_untrained_model_and_the_product_of_its_towers():
    retriever, _, _ = fitted()
    _, items, _ = drawn()
    untrained = Retriever(CONFIG, model=MODEL, params=monn.init_monn(jax.random.key(0), MODEL))
    untrained.build_index(items)

    def by_towers(users):
        given = MODEL, retriever.params
        of_users = monn.user_vectors(*given, features=users[0])
        of_items = monn.item_vectors(*given, features=items[0])
        return np.argsort(-np.asarray(of_users @ of_items.T), axis=1)[:, :10]

    own, before = (
        fresh_recall(lambda users, r=r: r.search(users, 10, budget=ITEMS).ids)
        for r in (retriever, untrained)
    )
    assert own > 1.3 * fresh_recall(by_towers) and own > 3 * before, (own, before)


def test_it_is_built_and_lives():
    retriever, _, _ = fitted()
    (users, items, _), stats = drawn(), retriever.stats()
    assert (stats["items"], stats["nodes"], retriever.ids.size) == (ITEMS, 8, ITEMS + 2)
    one = jax.tree.map(lambda x: x[:1], (users, items))
    retriever.remove([5])
    retriever.add(one[1], [5])
    retriever.upsert(jax.tree.map(lambda x: x[5:6], items), [5])
    assert retriever.search(one[0], 3).ids.shape == (1, 3)


def test_records_tell_of_every_validation_and_the_best_is_kept():
    retriever, records, log = fitted()
    assert records == log
    assert [record["step"] for record in records] == [50, 100, 150]
    assert records[-1]["loss"] < records[0]["loss"]
    best = max(record["recall@10"] for record in records)
    # What is served finds what the best validation found.
    users, _, positives = drawn()
    rng = np.random.default_rng(0)
    held = np.sort(rng.permutation(PAIRS)[: PAIRS // 10])
    users = jax.tree.map(lambda x: x[held], users)
    found = retriever.search(users, 10, budget=ITEMS).ids == positives[held, None]
    assert found.any(axis=1).mean() == pytest.approx(best)


def test_patience_selection_and_seeds():
    short = dataclasses.replace(TRAINING, steps=40, evaluate_every=10)
    # A rate of 0: the first validation is the best.
    still = dataclasses.replace(short, patience=2, select="loss")
    retriever, records = trained(training=still, tx=STILL, seed=3)
    assert [record["step"] for record in records] == [10, 20, 30]
    start = monn.init_monn(jax.random.split(jax.random.key(3))[0], MODEL)
    jax.tree.map(np.testing.assert_array_equal, retriever.params, start)
    (one, first), (two, second) = (trained(training=short, seed=4) for _ in range(2))
    assert first == second
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
    # Once more goes on from where it stands.
    users, items, positives = drawn()
    again = one.fit(users, items, positives=positives, training=short, tx=TX, seed=4)
    assert again[0]["loss"] < first[0]["loss"]


def test_labels_train_a_calibrated_model():
    users, items, positives = drawn()
    rng = np.random.default_rng(2)
    liked = rng.random(PAIRS) < 0.5
    shown = np.where(liked, positives, rng.integers(0, ITEMS, PAIRS))
    labels = liked.astype(float)
    labels[:100] = np.nan
    rows = np.arange(100, 400)
    given = {"training": dataclasses.replace(TRAINING, validation=rows), "labels": labels}
    retriever, records = trained(positives=shown, **given)
    assert records[-1]["loss"] < records[0]["loss"]
    read = jax.tree.map(lambda x: x[rows], users), jax.tree.map(lambda x: x[shown[rows]], items)
    found = monn.logits(
        MODEL,
        retriever.params,
        user_features=read[0][0],
        item_features=read[1][0],
        counts=read[0][1],
        attributes=read[1][1],
    )[:, 0]
    assert normalised_entropy(found, labels[rows]) < 0.8
    assert 0.85 < calibration(found, labels[rows]) < 1.15


def test_shampoo_is_had_by_its_word():
    assert made("shampoo", warmup=3) is made("shampoo", warmup=3)
    tx, params = made("shampoo", warmup=3), {"w": np.ones(3, np.float32)}
    updates, _ = tx.update(params, tx.init(params), params)
    assert (np.asarray(updates["w"]) < 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(tx="adam"), "tx: expected an optax transformation .* or 'adamw' or 'shampoo', found"),
        (dict(positives=np.zeros(3, int)), r"positives: expected .* \[2000\], found \[3\]"),
        (dict(positives=np.full(PAIRS, ITEMS)), "positives: .* 0 to 199, found values from 200"),
        (dict(labels=np.full(PAIRS, 2.0)), r"labels: expected numbers in \[0, 1\], .* found 2.0"),
        (dict(labels=np.zeros((PAIRS, 2))), r"labels: expected shape \[2000, 1\], .* \[2000, 2\]"),
        (dict(labels=np.zeros(PAIRS)), "validation: expected pairs with label 1, found none of"),
        (
            dict(training=Training(validation=1.5)),
            r"validation: expected a share in \(0, 1\), or rows, found 1.5",
        ),
        (
            dict(training=Training(validation=[PAIRS])),
            "validation: expected some of the 2000 pairs, found 1 rows",
        ),
        (dict(item_ids=np.zeros(ITEMS, int)), "item_ids: expected distinct"),
        (dict(item_ids=np.arange(3)), r"item_ids: expected shape \[200\], found \[3\]"),
        (dict(seed=-1), "seed: expected an integer from 0"),
    ],
)
def test_what_cannot_be_trained_is_refused(options, message):
    retriever = Retriever(CONFIG, model=MODEL)
    users, items, positives = drawn()
    with pytest.raises(ValueError, match=message):
        retriever.fit(users, items, **({"positives": positives} | options))
    with pytest.raises(ValueError, match=r"params: expected those of the model, .* found none"):
        retriever.build_index(items)


def test_divergence_changes_nothing():
    retriever = Retriever(CONFIG, model=MODEL)
    users, items, positives = drawn()
    short = dataclasses.replace(TRAINING, steps=6, evaluate_every=3, batch_size=16, negatives=4)
    with pytest.raises(FloatingPointError, match="expected finite numbers"):
        retriever.fit(users, items, positives=positives, tx=optax.sgd(1e30), training=short)
    assert retriever.params is None and retriever.index is None


def test_a_model_is_needed_and_numbers_are_in_range():
    with pytest.raises(ValueError, match=r"model: expected one to train, found none; .* fit_nodes"):
        Retriever(CONFIG).fit(np.ones((4, 2)), np.ones((9, 2)), positives=np.zeros(4, int))
    with pytest.raises(ValueError, match="steps: expected a number >= 1, found 0"):
        Training(steps=0)
    with pytest.raises(ValueError, match="select: expected 'recall' or 'loss', found 'ndcg'"):
        Training(select="ndcg")
