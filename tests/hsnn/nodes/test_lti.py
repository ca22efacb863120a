import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hsnn_jax import LTIConfig
from hsnn_jax.distance import nearest
from hsnn_jax.lists.index import build_index, stats
from hsnn_jax.nodes.fit import fit_index
from hsnn_jax.nodes.lti import (
    alpha_schedule,
    balance_penalty,
    empty_history,
    lti_loss,
    push_history,
    warmup,
)
from tests.hsnn import lti_reference
from tests.hsnn.planted import clusters, purity, unit, users_near

CONFIG = LTIConfig(
    num_nodes=5,
    total_steps=10,
    warmup_steps=8,
    logit_scale=3.0,
    alpha_max=6.0,
    alpha_exponent=0.5,
)


def drawn_batch(seed=0):
    rng = np.random.default_rng(seed)
    vectors = {
        name: jnp.asarray(rng.normal(size=(rows, 4)), jnp.float32)
        for name, rows in (("users", 7), ("positives", 7), ("negatives", 6))
    }
    ids = {"positive_ids": jnp.asarray([0, 1, 2, 3, 0, 5, 6])}
    return vectors | ids | {"negative_ids": jnp.asarray([9, 1, 2, 8, 8, 7])}


def drawn_nodes(seed=1, nodes=5):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(nodes, 4)), jnp.float32)


@pytest.mark.parametrize("distance", ["l2", "squared_l2", "cosine"])
@pytest.mark.parametrize(
    ("loss", "in_batch"), [("sampled_softmax", True), ("sampled_softmax", False), ("bce", True)]
)
def test_equals_the_reference(distance, loss, in_batch):
    config = dataclasses.replace(CONFIG, distance=distance, loss=loss, in_batch=in_batch)
    history = jnp.asarray(np.random.default_rng(2).dirichlet(np.ones(5), size=3), jnp.float32)
    batch, nodes = drawn_batch(), drawn_nodes()
    value, _ = lti_loss(
        {"nodes": nodes}, batch, key=jax.random.key(0), step=5, config=config, history=history
    )
    alpha, ramp = 6.0 * 0.5**0.5, 6 / 8
    expected = lti_reference.loss(nodes, batch, alpha, ramp, config, history)
    np.testing.assert_allclose(value, expected, rtol=2e-6)


def test_residual_levels_equal_the_reference():
    config = dataclasses.replace(CONFIG, num_nodes=(5, 3))
    rng = np.random.default_rng(2)
    history = tuple(jnp.asarray(rng.dirichlet(np.ones(k), size=3), jnp.float32) for k in (5, 3))
    batch, nodes = drawn_batch(), (drawn_nodes(), drawn_nodes(7, nodes=3))

    @jax.jit
    @jax.value_and_grad
    def loss(nodes):
        return lti_loss({"nodes": nodes}, batch, key=None, step=5, config=config, history=history)[
            0
        ]

    value, gradients = loss(nodes)
    expected = lti_reference.loss(nodes, batch, 6.0 * 0.5**0.5, 6 / 8, config, history)
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    for gradient in gradients:
        assert (np.abs(gradient).sum(axis=1) > 0).all()


def test_sinkhorn_in_place_of_the_softmax_ignores_padding():
    config = dataclasses.replace(CONFIG, assignment="sinkhorn", sinkhorn_iterations=4)
    batch, params = drawn_batch(), {"nodes": drawn_nodes()}
    rows = ("users", "positives", "positive_ids")
    padded = batch | {name: jnp.concatenate([batch[name], batch[name][:3] + 77]) for name in rows}
    padded["weights"] = jnp.asarray([1.0] * 7 + [0.0] * 3)
    found = [lti_loss(params, b, key=None, step=5, config=config) for b in (batch, padded)]
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    softmax = lti_loss(params, batch, key=None, step=5, config=CONFIG)[1]
    assert found[0][1]["perplexity"] > softmax["perplexity"] + 0.2


def test_gradient_equals_the_references_slope(x64):
    del x64
    config = dataclasses.replace(CONFIG, balance_batches=1)
    rng = np.random.default_rng(4)
    batch = jax.tree.map(np.asarray, drawn_batch())
    batch = jax.tree.map(
        jnp.asarray, {k: v.astype(float) if v.ndim == 2 else v for k, v in batch.items()}
    )
    nodes, direction = (jnp.asarray(rng.normal(size=(5, 4))) for _ in range(2))

    def reference(nodes):
        return lti_reference.loss(nodes, batch, 6.0 * 0.5**0.5, 6 / 8, config, np.zeros((0, 5)))

    def found(nodes):
        return lti_loss({"nodes": nodes}, batch, key=None, step=5, config=config)[0]

    slope = (reference(nodes + 1e-5 * direction) - reference(nodes - 1e-5 * direction)) / 2e-5
    np.testing.assert_allclose(jax.jvp(found, (nodes,), (direction,))[1], slope, rtol=1e-5)


def test_gradient_reaches_nodes_and_every_tower():
    batch, params = drawn_batch(), {"nodes": drawn_nodes()}
    towers = {name: batch[name] for name in ("users", "positives", "negatives")}

    def loss(params, towers):
        return lti_loss(params, batch | towers, key=None, step=5, config=CONFIG)[0]

    for gradient in jax.tree.leaves(jax.grad(loss, argnums=(0, 1))(params, towers)):
        assert (np.abs(gradient).sum(axis=1) > 0).all()


def test_padding_changes_nothing():
    batch, params = drawn_batch(), {"nodes": drawn_nodes()}
    rows = ("users", "positives", "positive_ids")
    padded = batch | {name: jnp.concatenate([batch[name], batch[name][:3] + 77]) for name in rows}
    padded["weights"] = jnp.asarray([1.0] * 7 + [0.0] * 3)
    losses = [lti_loss(params, b, key=None, step=5, config=CONFIG)[0] for b in (batch, padded)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_bce_takes_labels():
    config = dataclasses.replace(CONFIG, loss="bce", reconstruction_weight=0, balance_weight=0)
    batch, params = drawn_batch(), {"nodes": drawn_nodes()}
    logits = []
    for label in (0.0, 1.0):
        labelled = batch | {"labels": jnp.full(7, label)}
        logits.append(lti_loss(params, labelled, key=None, step=9, config=config)[1]["supervised"])
    # softplus(x) - label * x: the two differ by the mean logit.
    cbar = [
        lti_reference.soft(v, np.asarray(params["nodes"]), 6 * 0.9**0.5, "l2")[0]
        for v in np.asarray(batch["positives"])
    ]
    mean_logit = 3.0 * np.mean(np.sum(np.asarray(batch["users"]) * cbar, axis=1))
    np.testing.assert_allclose(logits[0] - logits[1], mean_logit, rtol=1e-4)


def test_negatives_are_drawn_from_the_catalogue_by_key():
    batch = drawn_batch()
    del batch["negatives"], batch["negative_ids"]
    batch["catalogue"] = jnp.concatenate([batch["positives"]] * 3)
    config = dataclasses.replace(CONFIG, num_negatives=4)
    keys = (0, 0, 1)
    a, b, c = (
        float(
            lti_loss({"nodes": drawn_nodes()}, batch, key=jax.random.key(k), step=5, config=config)[
                0
            ]
        )
        for k in keys
    )
    assert a == b
    assert a != c


def test_loss_without_negatives_is_refused():
    batch = {name: drawn_batch()[name] for name in ("users", "positives")}
    config = dataclasses.replace(CONFIG, in_batch=False)
    with pytest.raises(
        ValueError, match=r"batch: expected 'negatives' or 'catalogue', .*positives"
    ):
        lti_loss({"nodes": drawn_nodes()}, batch, key=None, step=0, config=config)


def test_a_draw_of_negatives_without_a_key_is_refused():
    batch = {name: drawn_batch()[name] for name in ("users", "positives")}
    batch["catalogue"] = batch["positives"]
    with pytest.raises(ValueError, match=r"key: expected one, .* found none"):
        lti_loss({"nodes": drawn_nodes()}, batch, key=None, step=0, config=CONFIG)


def test_alpha_runs_from_zero_to_its_maximum():
    config = LTIConfig(alpha_max=8.0, alpha_exponent=2.0, total_steps=100)
    found = [float(alpha_schedule(step, config)) for step in (0, 50, 100, 500)]
    assert found == [0.0, 2.0, 8.0, 8.0]


def test_warmup_is_linear():
    config = LTIConfig(warmup_steps=4)
    assert [float(warmup(step, config)) for step in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]


def test_parts_switched_off_take_no_part():
    constant = LTIConfig(alpha_max=8.0, alpha_exponent=0.0, total_steps=100)
    assert [float(alpha_schedule(step, constant)) for step in (0, 50, 100)] == [8.0] * 3
    assert float(warmup(0, LTIConfig(warmup_steps=0))) == 1.0
    config = dataclasses.replace(CONFIG, balance_weight=0.0, warmup_steps=0)
    loss, metrics = lti_loss(
        {"nodes": drawn_nodes()}, drawn_batch(), key=None, step=5, config=config
    )
    np.testing.assert_allclose(loss, metrics["supervised"] + metrics["reconstruction"], rtol=1e-6)


def test_soft_assignment_hardens():
    params, batch = {"nodes": drawn_nodes()}, drawn_batch()
    config = dataclasses.replace(CONFIG, alpha_max=200.0)
    gaps = [
        float(lti_loss(params, batch, key=None, step=step, config=config)[1]["soft_hard_gap"])
        for step in (0, 1, 10)
    ]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.05 * gaps[0]


def test_balance_is_one_when_even_and_pools_batches():
    config = LTIConfig(num_nodes=4, balance_batches=4)
    history, hot = empty_history(config), jnp.eye(4)
    penalties = []
    for k in range(4):
        penalties.append(float(balance_penalty(hot[k], history)))
        history = push_history(history, hot[k])
    # Batches that each use another node: even once all four are pooled.
    np.testing.assert_allclose(penalties, [4.0, 2.0, 4 / 3, 1.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("loss", "hinge", "loss: expected"),
        ("num_nodes", 0, "num_nodes: expected numbers > 0, found 0"),
        ("num_nodes", (4, 0), r"num_nodes: expected numbers > 0, found \(4, 0\)"),
        ("assignment", "hard", "assignment: expected 'softmax' or 'sinkhorn', found 'hard'"),
        ("start", "zeros", "start: expected 'kmeans' or 'random', found 'zeros'"),
        ("dead_after", -1, "dead_after: expected a number >= 0, found -1"),
        ("balance_weight", -1.0, "balance_weight: expected a number >= 0, found -1.0"),
    ],
)
def test_bad_config(field, value, message):
    with pytest.raises(ValueError, match=message):
        LTIConfig(**{field: value})


def test_learned_index_is_pure_on_planted_clusters():
    items, cluster = clusters(0, items=480, width=16, num_clusters=12, noise=0.4)
    users, liked = users_near(1, items, users=2000, noise=0.4)
    config = LTIConfig(num_nodes=12, total_steps=150, warmup_steps=20, num_negatives=64)
    fitted = fit_index(
        users,
        items,
        positives=liked,
        tx=optax.adam(3e-3),
        config=config,
        key=jax.random.key(0),
        batch_size=128,
    )
    found, _ = nearest(items, fitted.params["nodes"])
    assert purity(np.asarray(found), cluster) > 0.99
    assert fitted.metrics[-1]["step"] == 100


def test_fit_repairs_random_nodes():
    items, cluster = clusters(0, items=480, width=16, num_clusters=12, noise=0.4)
    users, liked = users_near(1, items, users=2000, noise=0.4)
    config = LTIConfig(num_nodes=24, total_steps=300, warmup_steps=20, num_negatives=64)
    start = {"nodes": jnp.asarray(0.1 * unit(np.random.default_rng(3).normal(size=(24, 16))))}
    kept = start["nodes"].copy()
    fitted = fit_index(
        users,
        items,
        positives=liked,
        tx=optax.adam(1e-2),
        config=config,
        key=jax.random.key(0),
        batch_size=128,
        params=start,
    )
    before, after = (
        purity(np.asarray(nearest(items, n)[0]), cluster) for n in (kept, fitted.params["nodes"])
    )
    assert before < 0.8 < 0.95 < after
    np.testing.assert_array_equal(start["nodes"], kept)  # the caller's params are not donated


def test_regulariser_evens_the_lists():
    # More than half of the items are of one cluster, which fills the node that starts there.
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(9, 8)))
    cluster = np.where(np.arange(400) < 220, 0, np.arange(400) % 9)
    items = unit(centres[cluster] + 0.18 * rng.normal(size=(400, 8)))
    users, liked = users_near(1, items, users=3000, noise=0.3)
    imbalance = []
    for weight in (0.0, 3.0):
        # Soft enough to the end for the regulariser to move items.
        config = LTIConfig(
            num_nodes=9,
            total_steps=250,
            warmup_steps=10,
            num_negatives=64,
            alpha_max=40.0,
            alpha_exponent=0.5,
            balance_weight=weight,
        )
        key, tx = jax.random.key(0), optax.adam(5e-3)
        start = {"nodes": jnp.asarray(centres)}
        fitted = fit_index(
            users,
            items,
            positives=liked,
            tx=tx,
            config=config,
            key=key,
            batch_size=128,
            params=start,
        )
        # No capacity bound: what remains is the regulariser's work.
        index = build_index(items, fitted.params["nodes"], capacity=400)
        imbalance.append(stats(index)["imbalance"])
    assert imbalance[0] > 2.0
    assert imbalance[1] < 1.5


def test_fit_bad_input():
    items = np.ones((5, 3), np.float32)
    fit = lambda users, positives: fit_index(  # noqa: E731
        users,
        items,
        positives=positives,
        tx=optax.sgd(1.0),
        config=LTIConfig(num_nodes=2),
        key=jax.random.key(0),
    )
    with pytest.raises(
        ValueError, match=r"user_vectors: expected shape \[rows, 3\], found \[4, 2\]"
    ):
        fit(np.ones((4, 2), np.float32), np.zeros(4, int))
    with pytest.raises(ValueError, match=r"positives: .* shape \[4\], found \[3\]"):
        fit(np.ones((4, 3), np.float32), np.zeros(3, int))
    with pytest.raises(
        ValueError, match=r"positives: expected rows of item_vectors, 0 to 4, found .* 0 to 5"
    ):
        fit(np.ones((2, 3), np.float32), np.array([0, 5]))
