"""The whole MoNN: its scorer in both searches, sizes, overarches, and what it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hsnn_jax import chunks
from hsnn_jax.descent.search import brute_force, search
from hsnn_jax.lists.index import build_index, pack
from hsnn_jax.monn import i2if
from hsnn_jax.monn import network as monn
from hsnn_jax.monn.calibration import normalised_entropy
from hsnn_jax.monn.config import SIZES, Features, preset
from hsnn_jax.monn.losses import multi_task_loss
from hsnn_jax.monn.scorers import init_mixture, mixture, score_all
from tests.hsnn.small_monn import ITEM, TOWERS, USER, config

USERS, ITEMS, VOCABULARY = 6, 40, 11
OVERARCHES = ("dot", "mol", "dot_mol", "mlp", "dhen")


@functools.cache
def inputs(seed=0, crosses=True, sparse=False):
    """Raw inputs: (user features, counts, item features, attributes)."""
    rng = np.random.default_rng(seed)
    history = rng.integers(0, VOCABULARY, (USERS, 9))
    ages = rng.random((USERS, 9))
    count = i2if.count_sparse if sparse else i2if.count_dense
    table = jax.jit(count, static_argnums=1)(history, VOCABULARY, ages=ages)
    users = {"taste": rng.normal(size=(USERS, 5)).astype(np.float32)}
    items = {
        "text": rng.normal(size=(ITEMS, 4)).astype(np.float32),
        "brand": rng.integers(0, 6, ITEMS),
    }
    attributes = {"category": rng.integers(-1, VOCABULARY, (ITEMS, 2))}
    return users, {"category": table} if crosses else None, items, attributes if crosses else None


@functools.cache
def shapes(configuration):
    return jax.eval_shape(
        functools.partial(monn.init_monn, config=configuration), jax.random.key(0)
    )


def drawn_params(configuration):
    """Draw every parameter, biases too; quicker than to compile `init_monn`."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: (0.4 * rng.normal(size=x.shape)).astype(x.dtype), shapes(configuration)
    )


def encoded(configuration, seed=0, **options):
    users, counts, items, attributes = inputs(seed, **options)
    params = drawn_params(configuration)
    return (
        params,
        monn.encode_users(configuration, params, features=users, counts=counts),
        monn.encode_items(configuration, params, features=items, attributes=attributes),
    )


def pairwise(configuration, params, **options):
    """The logits of all pairs [USERS, ITEMS, T] by the training path, a row a pair."""
    users, counts, items, attributes = jax.tree.map(np.asarray, inputs(**options))
    users, counts = jax.tree.map(lambda x: np.repeat(x, ITEMS, axis=0), (users, counts))
    items, attributes = jax.tree.map(lambda x: np.concatenate([x] * USERS), (items, attributes))
    found = jax.jit(functools.partial(monn.logits, configuration))(
        params,
        user_features=users,
        item_features=items,
        counts=counts,
        attributes=attributes,
    )
    return np.asarray(found).reshape(USERS, ITEMS, -1)


@functools.partial(jax.jit, static_argnums=0)
def score_grid(scorer, params, users, items):
    return score_all(scorer, params, users=users, items=items)


@pytest.mark.parametrize(
    ("overarch", "crosses"),
    [
        ("dot_mol", ("category",)),
        ("mol", ()),
        *(
            pytest.param(name, ("category",), marks=pytest.mark.long)
            for name in OVERARCHES
            if name != "dot_mol"
        ),
    ],
)
def test_brute_force_and_full_beam_equal_the_direct_computation(overarch, crosses):
    configuration = config(overarch, crosses, recency=bool(crosses), tasks=("click", "buy"))
    params, users, items = encoded(configuration, crosses=bool(crosses))
    direct = pairwise(configuration, params, crosses=bool(crosses))[..., 1]
    scorer = monn.MoNNScorer(configuration, "buy")
    whole = brute_force(scorer, params, items=items, users=users, k=10)
    order = np.argsort(-direct, axis=1)[:, :10]
    np.testing.assert_array_equal(whole.ids, order)
    best = np.take_along_axis(direct, order, axis=1)
    np.testing.assert_allclose(whole.scores, best, rtol=1e-4, atol=1e-5)
    index = any_index()
    held = pack(index, items) if overarch == "mol" else items
    options = dict(budget=ITEMS, node_scorer=all_alike)
    found = search(scorer, params, index=index, items=held, users=users, k=10, **options)
    np.testing.assert_array_equal(found.ids, whole.ids)
    np.testing.assert_allclose(found.scores, whole.scores, rtol=1e-4, atol=1e-5)


def any_index():
    vectors = np.random.default_rng(5).normal(size=(ITEMS, 3))
    return build_index(vectors, vectors[:5])


def all_alike(params, users, nodes):
    del params, users
    return jnp.zeros(nodes.shape[:2])


def test_nodes_are_scored_by_their_representatives():
    configuration = config("dot")
    params, users, items = encoded(configuration)
    index, scorer = any_index(), monn.MoNNScorer(configuration)
    nodes = jax.tree.map(lambda x: x[index.representatives], items)
    found = search(
        scorer,
        params,
        index=index,
        items=items,
        users=users,
        k=3,
        budget=ITEMS,
        max_beam=1,
        node_features=nodes,
    )
    scores = np.asarray(score_grid(scorer, params, users, items))
    best = np.argmax(scores[:, np.asarray(index.representatives)], axis=1)
    for row in range(USERS):
        listed = np.asarray(index.lists[best[row]])
        assert set(found.ids[row].tolist()) <= set(listed.tolist())
        expected = np.sort(scores[row, listed[listed >= 0]])[::-1][:3]
        np.testing.assert_allclose(found.scores[row], expected, rtol=1e-4, atol=1e-5)


def test_a_scorer_is_stable_and_does_not_retrace():
    params, users, items = encoded(config("dot", width=4))
    scorers = [monn.MoNNScorer(config("dot", width=4)) for _ in range(2)]
    assert scorers[0] == scorers[1] != monn.MoNNScorer(config("mlp"))
    before = score_grid._cache_size()
    for scorer in scorers:
        score_grid(scorer, params, users, items)
    assert score_grid._cache_size() == before + 1
    before = monn.encode_users._cache_size()
    encoded(config("dot", width=4), seed=3)
    assert monn.encode_users._cache_size() == before
    assert scorers[0].__name__ == "monn_dot_click"


def test_sparse_and_dense_counts_score_alike():
    configuration = config("dot", recency=True)
    params, dense, items = encoded(configuration)
    _, sparse, _ = encoded(configuration, sparse=True)
    scorer = monn.MoNNScorer(configuration)
    scores = [score_grid(scorer, params, users, items) for users in (dense, sparse)]
    np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-5)


def test_items_are_encoded_in_chunks(monkeypatch):
    configuration = config("dot", crosses=(), width=6)  # no other test's: not traced yet
    params, features = drawn_params(configuration), inputs()[2]
    monkeypatch.setattr(chunks, "_MAX_VALUES", 1)
    monkeypatch.setattr(chunks, "_MIN_ROWS", 7)
    found = monn.encode_items(configuration, params, features=features)
    encode = functools.partial(monn.MoNN(configuration).apply, method="encode_items")
    whole = jax.jit(encode)({"params": params}, features)
    np.testing.assert_allclose(found["vectors"], whole["vectors"], rtol=1e-4, atol=1e-5)
    program = monn.encode_items.lower(configuration, params, features=features).as_text()
    assert "while" in program


@pytest.mark.parametrize("overarch", OVERARCHES)
def test_every_parameter_gets_a_gradient(overarch):
    configuration = config(overarch, recency=True, tasks=("click", "buy"))
    params = drawn_params(configuration)
    users, counts, items, attributes = inputs()
    items, attributes = jax.tree.map(lambda x: x[:USERS], (items, attributes))
    labels = jnp.asarray(np.random.default_rng(0).integers(0, 2, (USERS, 2)))

    def loss(params):
        out = monn.logits(
            configuration,
            params,
            user_features=users,
            item_features=items,
            counts=counts,
            attributes=attributes,
        )
        return multi_task_loss(out, labels, weights=[1.0, 2.0])[0]

    gradients = jax.jit(jax.grad(loss))(params)
    silent = [
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_leaves_with_path(gradients)
        if not float(jnp.abs(g).max()) > 0
    ]
    assert silent == []


def test_a_scorer_takes_one_of_the_tasks():
    configuration = config("dot", crosses=(), tasks=("click", "buy"))
    params, users, items = encoded(configuration, crosses=False)
    first, click, buy = (
        score_grid(monn.MoNNScorer(configuration, task), params, users, items)
        for task in (None, "click", "buy")
    )
    np.testing.assert_array_equal(first, click)
    assert not np.allclose(click, buy)
    with pytest.raises(ValueError, match=r"task: expected one of .*, found 'like'"):
        monn.MoNNScorer(configuration, "like")


def test_the_dot_overarch_is_one_inner_product():
    configuration = config("dot", crosses=())
    params, users, items = encoded(configuration, crosses=False)
    left, right = (np.asarray(side["vectors"]) for side in (users, items))
    expected = left.reshape(USERS, -1) @ right.reshape(ITEMS, -1).T
    expected = expected + np.asarray(params["overarch"]["bias"])
    found = score_grid(monn.MoNNScorer(configuration), params, users, items)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", ["XS", "L"])
def test_a_step_of_adam_changes_the_inner_product_alike_at_every_size(size):
    """Weights that held their scale, 1/1,663 in L, doubled in a step of 1e-3."""
    configuration = preset(size, user=USER, item=ITEM, overarch="dot", **TOWERS)
    params = monn.init_monn(jax.random.key(0), configuration)
    items = monn.encode_items(configuration, params, features=inputs()[2])
    scorer = monn.MoNNScorer(configuration)

    def logits(weights):
        changed = params | {"overarch": params["overarch"] | {"weights": weights}}
        users = monn.encode_users(configuration, changed, features=inputs()[0])
        return score_all(scorer, changed, users=users, items=items)

    weights = params["overarch"]["weights"]
    before = logits(weights)
    tx = optax.adam(1e-3)
    gradients = jax.grad(lambda weights: jnp.sum(logits(weights)))(weights)
    updates, _ = tx.update(gradients, tx.init(weights))
    change = logits(weights + updates) - before
    assert 0 < jnp.max(jnp.abs(change)) < 0.03 * jnp.max(jnp.abs(before))


def test_a_mixture_by_hand():
    params = init_mixture(jax.random.split(jax.random.key(0)), 6, hidden=4)
    rng = np.random.default_rng(0)
    cosines, user, item = (rng.normal(size=s) for s in ((2, 3, 6), (2, 6), (2, 3, 6)))
    hidden = cosines @ np.asarray(params["pair_hidden"])
    gate = user[:, None] * item + hidden / (1 + np.exp(-hidden)) @ np.asarray(params["pair_gate"])
    gate = np.exp(gate) / np.exp(gate).sum(-1, keepdims=True)
    cosines, user, item = (jnp.asarray(x, jnp.float32) for x in (cosines, user, item))
    found = mixture(params, cosines, user_gate=user, item_gate=item)
    np.testing.assert_allclose(found, (gate * cosines).sum(-1) / 0.05, rtol=1e-4)


@pytest.mark.long
def test_sizes_grow():
    parameters, flops = [], []
    for size in SIZES:
        configuration = preset(size, user=USER, item=ITEM, crosses=("category",), **TOWERS)
        parameters.append(sum(p.size for p in jax.tree.leaves(shapes(configuration))))
        flops.append(monn.module_flops(configuration))
    assert parameters == sorted(set(parameters))
    for module in ("user", "item", "pair"):
        counts = [f[module] for f in flops]
        assert counts == sorted(set(counts)), module
    assert flops[0]["pair"] < 2 * 40 + 3  # the two tower costs one inner product a pair


def test_item_vectors_are_the_item_towers():
    configuration = config("dot", crosses=())
    params, _, items = encoded(configuration, crosses=False)
    vectors = monn.item_vectors(configuration, params, features=inputs()[2])
    np.testing.assert_allclose(vectors, items["vectors"].reshape(ITEMS, -1), rtol=1e-4, atol=1e-5)


def test_once_a_user_and_once_an_item_is_not_counted_for_a_pair():
    flops = {o: monn.module_flops(config(o, overarch_hidden=32)) for o in OVERARCHES}
    plain = monn.module_flops(config("mlp", (), overarch_hidden=32))
    interaction = flops["mlp"]["pair"] - plain["pair"]
    assert interaction > 0
    # Two hidden layers of 32; the first one's maps of the two sides belong to these.
    assert 2 * 32 * 32 < flops["mlp"]["pair"] < interaction + 3 * 32 * 32
    assert flops["dot"]["pair"] < flops["mol"]["pair"] < flops["dhen"]["pair"]


@pytest.mark.parametrize(
    "change",
    [
        dict(overarch_hidden=8),
        dict(overarch="dhen", overarch_tokens=3),
        dict(overarch="dhen", overarch_layers=3),
    ],
)
def test_the_overarch_options_change_its_cost(change):
    plain = config(**{k: v for k, v in change.items() if k == "overarch"})
    assert monn.module_flops(config(**change))["pair"] != monn.module_flops(plain)["pair"]


def drawn_clicks(seed, pairs, categories=100):
    """Labels that depend on how often the user has engaged with the item's category."""
    rng = np.random.default_rng(seed)
    interest = rng.dirichlet(np.full(categories, 0.05), pairs)
    history = np.stack([rng.choice(categories, 20, p=p) for p in interest])
    seen = history[np.arange(pairs), rng.integers(0, 20, pairs)]
    category = np.where(rng.random(pairs) < 0.5, seen, rng.integers(0, categories, pairs))
    truth = 2.5 * np.log1p((history == category[:, None]).sum(axis=1)) - 3
    labels = rng.random(pairs) < 1 / (1 + np.exp(-truth))
    table = jax.tree.map(np.asarray, i2if.count_dense(history, categories))
    inputs = {
        "user_features": {"shares": table.counts / 20},
        "item_features": {"category": category},
        "counts": {"category": table},
        "attributes": {"category": category[:, None]},
    }
    return inputs, labels, truth


@functools.partial(jax.jit, static_argnums=0)
def trained(configuration, inputs, labels, rows):
    """Train on the rows [steps, B] of the data by Adam."""
    tx = optax.adam(3e-3)

    def step(carry, rows):
        batch, wanted = jax.tree.map(lambda x: x[rows], (inputs, labels))

        def loss(params):
            out = monn.logits(configuration, params, **batch)
            return multi_task_loss(out, wanted, weights=[1.0])[0]

        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    params = monn.init_monn(jax.random.key(0), configuration)
    return jax.lax.scan(step, (params, tx.init(params)), rows)[0][0]


@pytest.mark.long
def test_a_small_monn_learns_a_cross_that_the_two_tower_does_not():
    inputs, labels, _ = drawn_clicks(0, 8000)
    held_out, wanted, truth = drawn_clicks(1, 4000)
    rows = np.random.default_rng(0).integers(0, 8000, (200, 128))
    sides = dict(user=Features(dense={"shares": 100}), item=Features(sparse={"category": 100}))
    excess = {}
    for size in ("XS", "S"):
        configuration = preset(size, **sides, crosses=("category",), **TOWERS)
        params = trained(configuration, inputs, labels[:, None].astype(np.float32), rows)
        predicted = jax.jit(functools.partial(monn.logits, configuration))(params, **held_out)
        entropy = normalised_entropy(predicted[:, 0], wanted)
        excess[size] = entropy - normalised_entropy(truth, wanted)
    assert -0.01 < excess["S"] < 0.15, excess
    assert excess["S"] < 0.5 * excess["XS"], excess


def test_missing_inputs():
    configuration = config()
    params = drawn_params(configuration)
    users, _, items, _ = inputs()
    with pytest.raises(ValueError, match=r"counts: expected \['category'\], found \[\]"):
        monn.encode_users(configuration, params, features=users)
    with pytest.raises(ValueError, match=r"attributes: expected \['category'\], found \['x'\]"):
        monn.encode_items(configuration, params, features=items, attributes={"x": items["brand"]})


def test_counts_without_the_recency_that_the_model_reads():
    configuration = config(recency=True)
    params, users, items = encoded(configuration)
    users["counts"]["category"] = users["counts"]["category"]._replace(recency=None)
    with pytest.raises(ValueError, match=r"counts\['category'\]: expected a table with recency"):
        brute_force(monn.MoNNScorer(configuration), params, items=items, users=users, k=3)
