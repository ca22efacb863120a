import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hsnn_jax import LTIConfig, Retriever, RouteConfig
from hsnn_jax.cost_curves import frontier
from hsnn_jax.descent.search import search
from hsnn_jax.lists.edits import padded
from hsnn_jax.lists.wide import pack_wide
from hsnn_jax.monn import i2if
from hsnn_jax.monn import network as monn
from hsnn_jax.monn.config import Features, MoNNConfig, TowerConfig
from hsnn_jax.monn.scorers import dot, init_mol, mol, score_all
from tests.hsnn.planted import clusters, same_answers, users_near

CONFIG = LTIConfig(num_nodes=8, total_steps=20, kmeans_iterations=5, num_negatives=32)
ALL = 10**6  # a budget that holds all items
IDS = 1000 + 7 * np.arange(120)[::-1]


def data():
    items, _ = clusters(0, items=120, width=8, num_clusters=8, noise=0.5)
    users, liked = users_near(1, items, users=40, noise=0.5)
    return items, users, liked


def built(**options):
    items, _, _ = data()
    retriever = Retriever(CONFIG, **options)
    retriever.build_index(items, item_ids=IDS)
    return retriever


def test_fit_build_search_in_the_callers_ids():
    items, users, liked = data()
    retriever = Retriever(CONFIG)
    retriever.fit_nodes(users, items, positives=liked, tx=optax.adam(1e-3))
    stats = retriever.build_index(items, item_ids=IDS)
    assert stats == retriever.stats()
    assert stats["items"] == 120
    answer = retriever.search(users, 5, budget=ALL)
    expected = IDS[np.argsort(-(users @ items.T), axis=1)[:, :5]]
    np.testing.assert_array_equal(answer.ids, expected)
    assert (answer.items_scored == 120).all()


def test_exclude_and_allow():
    _, users, _ = data()
    retriever = built()
    first = retriever.search(users, 3).ids
    unknown = np.concatenate([first, np.full((40, 1), 5), np.full((40, 1), -1)], axis=1)
    second = retriever.search(users, 3, exclude=unknown).ids
    assert not (first[:, :, None] == second[:, None, :]).any()
    for budget in (30, ALL):  # fewer than are allowed, and more
        found = retriever.search(users, 3, budget=budget, allowed=[5, *IDS[::2]]).ids
        assert np.isin(found, [*IDS[::2], -1]).all()
    assert (found >= 0).all()
    for none in ([], [5]):
        assert (retriever.search(users, 3, allowed=none).ids == -1).all()


@pytest.mark.parametrize("scorer", [dot, mol])
def test_save_and_load_give_the_same_answers(tmp_path, scorer):
    _, users, _ = data()
    params = init_mol(jax.random.key(1), 8, item_width=8) if scorer is mol else None
    retriever = built(scorer=scorer, params=params, max_beam=4)
    path = tmp_path / "retriever"
    retriever.save(path)
    loaded = Retriever.load(path, scorer=scorer)
    same_answers(retriever.search(users, 4, budget=50), loaded.search(users, 4, budget=50))
    assert loaded.config == CONFIG
    assert loaded.stats() == retriever.stats()
    assert [file.name for file in tmp_path.iterdir()] == ["retriever"]


def test_routes_are_of_one_level():
    items, users, _ = data()
    retriever = Retriever(LTIConfig(num_nodes=(2, 4), kmeans_iterations=3), nested=True)
    with pytest.raises(ValueError, match=r"index: expected one, .* found none"):
        retriever.fit_routes(users, optax.adam(1e-2), k=5, config=RouteConfig(budget=60))
    retriever.build_index(items)
    with pytest.raises(ValueError, match=r"expected one level of nodes .* found 2 levels"):
        retriever.fit_routes(users, optax.adam(1e-2), k=5, config=RouteConfig(budget=60))


def test_residual_levels_make_one_index_of_sums(tmp_path):
    items, users, _ = data()
    retriever = Retriever(LTIConfig(num_nodes=(2, 3), kmeans_iterations=5))
    assert retriever.build_index(items)["nodes"] == 6
    path = tmp_path / "retriever"
    retriever.save(path)
    loaded = Retriever.load(path)
    assert loaded.config == retriever.config
    np.testing.assert_array_equal(loaded.search(users, 3).ids, retriever.search(users, 3).ids)


USER, ITEM = Features(dense={"taste": 5}), Features(dense={"text": 4}, sparse={"brand": 6})
TOWER = TowerConfig(field_width=4, dense_fields=2, num_layers=1, hidden=8, attention_width=4)
MODEL = MoNNConfig(
    user=USER,
    item=ITEM,
    crosses=("category",),
    num_user=2,
    num_item=2,
    num_interaction=1,
    width=4,
    tasks=("click", "buy"),
    user_tower=TOWER,
    item_tower=TOWER,
    interaction_tower=TOWER,
)


def model_inputs(seed, users, items):
    """What a MoNN reads of drawn users and items."""
    rng = np.random.default_rng(seed)
    history = rng.integers(0, 7, (users, 6))
    counts = np.stack([np.bincount(row, minlength=7) for row in history]).astype(np.float32)
    table = i2if.DenseTable(counts, counts.sum(axis=1), None)
    return (
        ({"taste": rng.normal(size=(users, 5)).astype(np.float32)}, {"category": table}),
        (
            {
                "text": rng.normal(size=(items, 4)).astype(np.float32),
                "brand": rng.integers(0, 6, items),
            },
            {"category": rng.integers(-1, 7, (items, 2))},
        ),
    )


@functools.cache
def model_params(model=MODEL):
    shapes = jax.eval_shape(lambda key: monn.init_monn(key, model), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: (0.4 * rng.normal(size=x.shape)).astype(x.dtype), shapes)


def modelled(model=MODEL):
    """A retriever that carries a MoNN, and the truth: {id: what the model reads of the item}."""
    _, items = model_inputs(0, 1, 32)
    params, config = model_params(model), LTIConfig(num_nodes=4, kmeans_iterations=3)
    retriever = Retriever(config, model=model, params=params, task="buy")
    retriever.nodes = monn.item_vectors(model, params, features=items[0])[np.array([1, 9, 17, 25])]
    retriever.build_index(items, item_ids=100 + np.arange(32), reserve=8)
    return retriever, {100 + i: jax.tree.map(lambda x, i=i: x[i], items) for i in range(32)}


class Routed(NamedTuple):
    """A retriever that learned routes, what it holds and who asks, and recall before and after."""

    retriever: Retriever
    items: tuple
    users: tuple
    before: float
    after: float


def found_by(retriever, users):
    return retriever.frontier(users, 10, budgets=[80])[0].recall


@pytest.fixture(scope="module")
def routed():
    """A MoNN reads a node as the item nearest to it, which is not what lies around it."""
    model = dataclasses.replace(MODEL, overarch="dot")
    params, config = model_params(model), dataclasses.replace(CONFIG, num_nodes=16)
    users, items = model_inputs(3, 700, 400)
    asked, learners = (
        jax.tree.map(lambda x, part=part: x[part], users) for part in (slice(100), slice(100, None))
    )
    retriever = Retriever(config, model=model, params=params, task="buy")
    retriever.build_index(items, item_ids=5 * np.arange(400))
    before = found_by(retriever, asked)
    losses = retriever.fit_routes(
        learners,
        optax.adam(1e-2),
        k=10,
        config=RouteConfig(budget=80, steps=100, batch_size=64),
    )
    assert losses[-1] < losses[0]
    return Routed(retriever, items, asked, before, found_by(retriever, asked))


@pytest.mark.long
def test_routes_find_more_within_the_budget_and_change_nothing_else(routed, tmp_path):
    assert routed.after > routed.before + 0.1
    retriever = routed.retriever
    plain = Retriever(retriever.config, model=retriever.model, params=retriever.params, task="buy")
    plain.build_index(routed.items, item_ids=5 * np.arange(400))
    whole = plain.search(routed.users, 5, budget=ALL)
    np.testing.assert_array_equal(retriever.search(routed.users, 5, budget=ALL).ids, whole.ids)
    retriever.save(tmp_path / "routed")
    loaded = Retriever.load(tmp_path / "routed")
    same_answers(*(r.search(routed.users, 4, budget=80) for r in (retriever, loaded)))


def test_routes_outlast_updates_and_end_with_a_build(routed, tmp_path):
    routed.retriever.save(tmp_path / "routed")
    retriever = Retriever.load(tmp_path / "routed")
    retriever.remove([0, 5])
    assert found_by(retriever, routed.users) == pytest.approx(routed.after, abs=0.03)
    retriever.build_index(routed.items)
    assert found_by(retriever, routed.users) == routed.before


def check_answers(retriever, truth):
    """A full budget finds what the training path's logits say of the items as they are now."""
    users, _ = model_inputs(9, 5, 1)
    ids = np.array(sorted(truth))
    items = jax.tree.map(lambda *rows: np.stack(rows), *[truth[i] for i in ids.tolist()])
    pairs = jax.tree.map(lambda x: np.repeat(x, ids.size, axis=0), users)
    items = jax.tree.map(lambda x: np.concatenate([x] * 5), items)
    # Of one shape whatever the number of items: padded to that of a full index, 40 rows.
    pairs, items = jax.tree.map(lambda x: padded(x, 5 * 40, value=0), (pairs, items))
    scores = direct_logits(retriever.model, pairs, items)[: 5 * ids.size, 1].reshape(5, -1)
    order = np.argsort(-scores, axis=1)[:, :6]
    answer = retriever.search(users, 6)
    np.testing.assert_array_equal(answer.ids, ids[order])
    best = np.take_along_axis(scores, order, axis=1)
    np.testing.assert_allclose(answer.scores, best, rtol=1e-4, atol=1e-5)
    return answer


@functools.partial(jax.jit, static_argnums=0)
def direct_logits(model, users, items):
    return monn.logits(
        model,
        model_params(model),
        user_features=users[0],
        item_features=items[0],
        counts=users[1],
        attributes=items[1],
    )


def test_a_monn_is_carried_through_updates_and_the_file(tmp_path):
    retriever, truth = modelled()
    before = check_answers(retriever, truth)
    assert (before.nodes_scored == 4).all()
    _, more = model_inputs(1, 1, 3)
    retriever.add(more, [7, 8, 9])
    truth |= {7 + i: jax.tree.map(lambda x, i=i: x[i], more) for i in range(3)}
    best = before.ids[0, 0]
    retriever.remove([best, 8])
    del truth[best], truth[8]
    _, changed = model_inputs(2, 1, 2)
    retriever.reassign(changed, [110, 7])
    truth |= {i: jax.tree.map(lambda x, row=row: x[row], changed) for row, i in enumerate((110, 7))}
    answer = check_answers(retriever, truth)
    path = tmp_path / "monn"
    retriever.save(path)
    loaded = Retriever.load(path)
    assert (loaded.model, loaded.task, loaded.config) == (MODEL, "buy", retriever.config)
    same_answers(answer, check_answers(loaded, truth))
    loaded.add(jax.tree.map(lambda x: x[:1], more), [8])
    check_answers(loaded, truth | {8: jax.tree.map(lambda x: x[0], more)})
    with pytest.raises(ValueError, match=r"scorer: expected 'monn_mol_buy', .* found 'dot'"):
        Retriever.load(path, scorer=dot)


def test_nodes_of_a_monn_are_scored_as_their_representatives():
    retriever, _ = modelled()
    _, items = model_inputs(0, 1, 32)
    rows = np.asarray(retriever.index.representatives)
    encoded = monn.encode_items(MODEL, model_params(), features=items[0], attributes=items[1])
    features, counts = model_inputs(9, 5, 1)[0]
    users = monn.encode_users(MODEL, model_params(), features=features, counts=counts)
    grid = jax.jit(score_all, static_argnums=0)(
        monn.MoNNScorer(MODEL, "buy"),
        model_params(),
        users=users,
        items=jax.tree.map(lambda x: x[rows], encoded),
    )
    counts, capacity = np.asarray(retriever.index.counts), retriever.index.lists.shape[1]
    answer = retriever.search(model_inputs(9, 5, 1)[0], 3, budget=capacity)
    for row, scores in enumerate(np.asarray(grid)):
        spent = np.cumsum(counts[np.argsort(-scores)])
        assert answer.items_scored[row] == spent[spent <= capacity][-1]


def test_nodes_are_fitted_on_a_monns_towers():
    users, items = model_inputs(3, 5, 32)
    retriever = Retriever(
        LTIConfig(num_nodes=4, total_steps=2, kmeans_iterations=3, num_negatives=8),
        model=MODEL,
        params=model_params(),
    )
    tx = optax.sgd(0.1)
    retriever.fit_nodes(users, items, positives=np.arange(5), tx=tx)
    assert retriever.nodes.shape == (4, 8)
    assert retriever.build_index(items)["items"] == 32


def test_bad_inputs_of_a_monn():
    retriever, _ = modelled()
    before = retriever.index
    users, items = model_inputs(4, 2, 2)
    with pytest.raises(
        ValueError,
        match=r"vectors\[0\]\['text'\]: expected finite values, found NaN or inf in row 1",
    ):
        items[0]["text"][1] = np.nan
        retriever.add(items, [1, 2])
    with pytest.raises(ValueError, match=r"attributes: expected \['category'\], found \[\]"):
        retriever.add({"text": np.zeros((2, 4), np.float32), "brand": np.zeros(2, int)}, [1, 2])
    with pytest.raises(
        ValueError, match=r"users: expected features of one number of rows, found \[1, 2\]"
    ):
        retriever.search((users[0], jax.tree.map(lambda x: x[:1], users[1])), 2)
    with pytest.raises(ValueError, match="ids: expected new ones, found 100"):
        retriever.add(model_inputs(5, 1, 1)[1], [100])
    with pytest.raises(
        ValueError, match=r"\['category'\]: expected int32 \(1, 2\), found int32 \(1, 3"
    ):
        attributes = {"category": np.zeros((1, 3), int)}
        retriever.add((model_inputs(5, 1, 1)[1][0], attributes), [1])
    assert retriever.index is before
    with pytest.raises(ValueError, match="scorer: expected none with a model, found"):
        Retriever(CONFIG, model=MODEL, scorer=mol)
    with pytest.raises(ValueError, match="task: expected none without a model, found 'buy'"):
        Retriever(CONFIG, task="buy")


def test_the_frontier_of_a_retriever_is_that_of_its_index():
    items, users, _ = data()
    retriever, allowed = built(), np.arange(120) % 5 > 0
    found = retriever.frontier(users, 5, budgets=[30, 60, ALL], allowed=IDS[allowed])
    items, users = jnp.asarray(items), jnp.asarray(users)
    expected = frontier(
        dot,
        None,
        index=retriever.index,
        items=items,
        users=users,
        k=5,
        budgets=[30, 60],
        allowed=jnp.asarray(allowed),
    )
    for point, of_rows, budget in zip(found, expected, [30, 60]):
        # The retriever holds vectors in wider pages, whose free slots are computed too.
        wide = pack_wide(retriever.index, items)
        given = dict(users=users, k=5, budget=budget, allowed=jnp.asarray(allowed))
        flops = search(dot, None, index=retriever.index, items=wide, **given).flops
        same = of_rows._replace(flops=float(np.mean(flops)))
        np.testing.assert_allclose(point, same, rtol=1e-6)
        assert point.flops > of_rows.flops
    assert found[0].recall < found[2].recall == 1.0
    assert found[2].items_scored == 96
