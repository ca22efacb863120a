"""Towers and a scorer of the caller's own, in place of a MoNN."""

import copy
import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hsnn_jax import LTIConfig, Pool, Retriever, RouteConfig, Towers, Training, preset
from hsnn_jax.descent.descend import Level
from hsnn_jax.descent.search import search_levels
from hsnn_jax.lists.index import build_index, pack
from hsnn_jax.monn.config import Features
from hsnn_jax.monn.scorers import dot
from hsnn_jax.serving import calibration, side
from tests.hsnn.planted import clusters, same_answers, users_near

CONFIG = LTIConfig(num_nodes=8, kmeans_iterations=5)
ALL = 10**6  # a budget that holds all items


class Tower(nn.Module):
    """A Flax module of a user's own."""

    @nn.compact
    def __call__(self, text, group):
        return nn.Dense(8)(jnp.concatenate([text, nn.Embed(5, 4)(group)], axis=1))


class Bonus(nn.Module):
    """A part of the scorer that is no inner product."""

    @nn.compact
    def __call__(self, pairs):
        return nn.Dense(1)(nn.relu(nn.Dense(6)(pairs)))[..., 0]


def encode(side_name):
    def tower(params, inputs):
        vector = Tower().apply(params[side_name], inputs["text"], inputs["group"])
        return {"vector": vector, "group": inputs["group"]}

    return tower


def score(params, users, items):
    u, v = users["vector"][:, None, :], items["vector"]
    return (u * v).sum(axis=-1) + Bonus().apply(params["bonus"], jnp.tanh(u * v))


def vector_of(side_name):
    return lambda params, inputs: encode(side_name)(params, inputs)["vector"]


OWN = Towers(
    encode("user"),
    encode("item"),
    score,
    user_vectors=vector_of("user"),
    item_vectors=vector_of("item"),
)
PLAIN = Towers(lambda p, x: x, lambda p, x: x, dot, nodes=lambda p, x: x, name="plain")


@functools.cache
def params():
    keys = jax.random.split(jax.random.key(0), 3)
    text, group = jnp.zeros((1, 6)), jnp.zeros(1, jnp.int32)
    return {
        "user": Tower().init(keys[0], text, group),
        "item": Tower().init(keys[1], text, group),
        "bonus": Bonus().init(keys[2], jnp.zeros((1, 8))),
    }


def inputs(seed, rows):
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(rows, 6)).astype(np.float32)
    return {"text": text, "group": rng.integers(0, 5, rows)}


def built(**options):
    retriever = Retriever(CONFIG, model=OWN, params=params(), **options)
    retriever.build_index(inputs(0, 100), reserve=20)
    return retriever


def scores_of(users, items):
    read = OWN.users(params(), users), OWN.items(params(), items)
    own = jax.tree.map(lambda x: x[None], read[1])
    return np.array(score(params(), read[0], own))


def joined(*parts):
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def planted():
    items, _ = clusters(0, items=300, width=8, num_clusters=8, noise=0.5)
    return items, users_near(1, items, users=20, noise=0.5)[0]


@pytest.mark.long
def test_towers_that_do_nothing_are_a_retriever_of_vectors(monkeypatch):
    monkeypatch.setattr(calibration, "_LEAST_ITEMS", 64)
    items, users = planted()
    plain, own = Retriever(CONFIG), Retriever(CONFIG, model=PLAIN, params={})
    for retriever in (plain, own):
        retriever.build_index(items, users=users)
    for options in ({"budget": 60}, {"budget": ALL}, {"recall": 0.8}):
        expected, found = (r.search(users, 5, **options) for r in (plain, own))
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
        np.testing.assert_array_equal(found.items_scored, expected.items_scored)


def test_exact_answers_are_those_of_the_scorer():
    retriever, users = built(), inputs(1, 7)
    scores = scores_of(users, inputs(0, 100))
    answer = retriever.search(users, 10, budget=ALL)
    np.testing.assert_array_equal(answer.ids, np.argsort(-scores, axis=1)[:, :10])
    np.testing.assert_allclose(answer.scores, -np.sort(-scores, axis=1)[:, :10], rtol=1e-5)
    some = retriever.search(users, 10, budget=30)
    assert (some.items_scored <= 30).all() and (some.ids[:, 0] >= 0).all()
    assert retriever.search(users, 5, allowed=[4, 9], budget=ALL).ids.max() == 9
    one = jax.tree.map(lambda x: x[:1], users)
    assert 3 not in retriever.search(one, 100, exclude=[[3]], budget=ALL).ids


def test_items_come_change_and_go():
    retriever, users, more = built(), inputs(1, 7), inputs(2, 6)
    retriever.add(more, np.arange(100, 106))
    assert side.size(retriever._now.side) == 6
    retriever.remove([0, 101])
    changed = inputs(3, 2)
    retriever.upsert(changed, [5, 103])
    held = joined(inputs(0, 100), more)
    for row, new in ((5, 0), (103, 1)):
        for name, values in held.items():
            values[row] = changed[name][new]
    scores = scores_of(users, held)
    scores[:, [0, 101]] = -np.inf
    for _ in ("beside the lists", "in the lists"):
        answer = retriever.search(users, 10, budget=ALL)
        np.testing.assert_array_equal(answer.ids, np.argsort(-scores, axis=1)[:, :10])
        retriever.rebuild()


def test_nodes_are_items_or_what_the_caller_makes_of_them():
    items, users = planted()
    doubled = dataclasses.replace(PLAIN, nodes=lambda p, x: 2 * x)
    as_items = dataclasses.replace(PLAIN, nodes=None)
    found = {}
    for name, model in (("items", as_items), ("own", doubled)):
        retriever = Retriever(CONFIG, model=model, params={})
        retriever.build_index(items)
        retriever.add(users[:1], [1000])
        retriever.reassign()
        found[name] = np.asarray(retriever._now.node_features[0]), retriever.index
    features, index = found["own"]
    np.testing.assert_array_equal(features, 2 * np.asarray(index.nodes))
    features, index = found["items"]
    rows = np.asarray(index.representatives)
    np.testing.assert_array_equal(features, np.concatenate([items, users[:1]])[rows])


def two_levels(items):
    """The inner product goes by nodes, a scorer of one's own by items."""
    square = Towers(PLAIN.users, PLAIN.items, squares)
    retriever = Retriever(CONFIG, model=(PLAIN, square), params={"models": (None, {"by": 2.0})})
    retriever.build_index(items, reserve=4)
    return retriever


def squares(params, users, items):
    products = jnp.einsum("bmd,bd->bm", items, users)
    return jnp.sign(products) * jnp.abs(products) ** params["by"]


def test_one_model_goes_by_nodes_another_scores_the_items(tmp_path):
    items, users = planted()
    retriever = two_levels(items)
    answer = retriever.search(users, 5, budget=60)
    nodes = np.asarray(retriever.index.nodes)
    index = build_index(items, nodes, slack=2.0, reserve=4)
    expected = search_levels(
        (
            Level(dot, None, users, nodes),
            Level(squares, {"by": 2.0}, users, pack(index, np.pad(items, ((0, 4), (0, 0))))),
        ),
        (index,),
        k=5,
        budgets=(60,),
    )
    np.testing.assert_array_equal(answer.ids, expected.ids)
    np.testing.assert_array_equal(answer.items_scored, expected.items_scored)
    retriever.add(3 * users[:2], [1000, 1001])
    retriever.remove([int(answer.ids[5, 0])])
    np.testing.assert_array_equal(retriever.search(users[:2], 1, budget=60).ids, [[1000], [1001]])
    retriever.save(tmp_path / "saved")
    loaded = Retriever.load(tmp_path / "saved", model=retriever.model)
    same_answers(loaded.search(users, 5, budget=60), retriever.search(users, 5, budget=60))
    with pytest.raises(ValueError, match=r"expected.*Towers named 'plain'.*, found"):
        Retriever.load(tmp_path / "saved", model=PLAIN)
    first = copy.copy(retriever)
    first.model, first.params = (PLAIN, PLAIN), {"models": (None, None)}
    first.save(tmp_path / "saved")
    assert Retriever.load(tmp_path / "saved", model=first.model).params["models"] == (None, None)


def test_saved_and_loaded_it_answers_alike(tmp_path):
    retriever, users = built(), inputs(1, 7)
    retriever.add(inputs(2, 3), [200, 201, 202])
    retriever.save(tmp_path / "saved")
    loaded = Retriever.load(tmp_path / "saved", model=OWN)
    for budget in (30, ALL):
        answers = (r.search(users, 5, budget=budget) for r in (loaded, retriever))
        np.testing.assert_array_equal(*(each.ids for each in answers))
    for given, found in ((None, "None"), (PLAIN, "Towers named 'plain'")):
        with pytest.raises(ValueError, match=f"expected Towers named 'score', .* found {found}"):
            Retriever.load(tmp_path / "saved", model=given)
    with pytest.raises(ValueError, match="scorer: expected 'score', with which"):
        Retriever.load(tmp_path / "saved", model=OWN, scorer=dot)
    nothing = Retriever(CONFIG, params={"a": None})
    nothing.build_index(planted()[0])
    with pytest.raises(ValueError, match=r"params\['a'\]: expected an array, found None"):
        nothing.save(tmp_path / "other")


@pytest.mark.long
def test_a_pool_and_nodes_read_the_vectors_of_the_towers():
    users, liked = inputs(1, 40), np.arange(40)
    retriever = built(candidates=Pool(12))
    answer = retriever.search(users, 5, budget=ALL)
    vectors = [np.asarray(OWN.encoders.user_vectors(params(), users))]
    vectors.append(np.asarray(OWN.encoders.item_vectors(params(), inputs(0, 100))))
    pool = np.argsort(-(vectors[0] @ vectors[1].T), axis=1)[:, :16]  # 16 at least
    own = np.take_along_axis(scores_of(users, inputs(0, 100)), pool, axis=1)
    best = np.take_along_axis(pool, np.argsort(-own, axis=1)[:, :5], axis=1)
    np.testing.assert_array_equal(answer.ids, best)
    before = retriever.index.nodes
    config = dataclasses.replace(CONFIG, total_steps=3, num_negatives=16)
    retriever = Retriever(config, model=OWN, params=params())
    retriever.fit_nodes(users, inputs(0, 100), positives=liked, tx=optax.adam(1e-2))
    retriever.build_index(inputs(0, 100))
    assert retriever.index.nodes.shape == before.shape
    retriever.fit_routes(users, optax.adam(1e-2), k=5, config=RouteConfig(budget=30, steps=3))
    assert (retriever.search(users, 5, budget=ALL).ids[:, 0] >= 0).all()


def training_pairs(seed=0):
    """Users like the item whose text is theirs, as no drawn parameters can tell."""
    items, rng = inputs(0, 100), np.random.default_rng(seed)
    liked = rng.integers(0, 100, 600)
    users = jax.tree.map(lambda x: x[liked], items)
    return users, items, liked


@pytest.mark.parametrize("labelled", [False, pytest.param(True, marks=pytest.mark.long)])
def test_fit_trains_it_from_its_parameters(labelled):
    users, items, liked = training_pairs()
    labels, rows = None, liked
    if labelled:  # every other pair is one that the user does not like
        rows = np.where(np.arange(600) % 2, liked, (liked + 50) % 100)
        labels = (np.arange(600) % 2).astype(np.float32)
    retriever = Retriever(CONFIG, model=OWN, params=params())
    training = Training(
        steps=120, evaluate_every=40, batch_size=64, negatives=32, k=5, progress=False
    )
    records = retriever.fit(
        users, items, positives=rows, labels=labels, tx=optax.adam(1e-2), training=training
    )
    assert records[-1]["validation_loss"] < 0.7 * records[0]["validation_loss"]
    fresh, _, wanted = training_pairs(1)
    found = {
        name: (each.search(fresh, 5, budget=ALL).ids == wanted[:, None]).any(axis=1).mean()
        for name, each in (("trained", retriever), ("drawn", built()))
    }
    assert found["trained"] > found["drawn"] + 0.3
    assert retriever.model is OWN


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Retriever(CONFIG, model=OWN, task="like"), "task: expected none of a model of"),
        (lambda: Retriever(CONFIG, model="S"), "model: expected MoNNConfig, or Towers, found str"),
        (
            lambda: Retriever(CONFIG, model=(OWN, preset("S", user=SIDE, item=SIDE))),
            "model: expected MoNNConfig, or Towers, found MoNNConfig, Towers",
        ),
        (lambda: Retriever(CONFIG, model=OWN, scorer=dot), "scorer: expected none with a model"),
        (
            lambda: Retriever(CONFIG, model=OWN).fit(
                *training_pairs()[:2], positives=np.arange(600) % 9
            ),
            "params: expected those that your towers start from, found none",
        ),
        (
            lambda: two_levels(planted()[0]).fit(*planted(), positives=[0, 1]),
            "model: expected MoNNConfig a level to train jointly, found Towers",
        ),
        (lambda: built().search({"text": np.full((1, 6), np.nan)}, 3), "users.*: expected finite"),
        (
            lambda: Retriever(CONFIG, model=NO_VECTORS, params=params()).build_index(inputs(0, 9)),
            r"item_vectors: expected them, since items returns no \[n, d\], .*'vector': 'n, 8'",
        ),
        (
            lambda: dataclasses.replace(NO_VECTORS).encoders.user_vectors(params(), inputs(0, 9)),
            "user_vectors: expected them, since users returns no",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


SIDE = Features(dense={"text": 6})
NO_VECTORS = Towers(encode("user"), encode("item"), score)
