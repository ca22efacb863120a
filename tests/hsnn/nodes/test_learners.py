import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hsnn_jax import LTIConfig
from hsnn_jax.distance import nearest
from hsnn_jax.lists.levels import build_levels, residual_nodes
from hsnn_jax.nodes.dead_nodes import replace_dead
from hsnn_jax.nodes.em import em_loss, fit_em
from hsnn_jax.nodes.ema import ema_start, ema_update
from hsnn_jax.nodes.learners import EM, EMA, LTI, KMeans, NaturalHierarchy
from hsnn_jax.nodes.sinkhorn import sinkhorn
from hsnn_jax.nodes.telemetry import CollapseWarning, telemetry
from tests.hsnn.planted import purity, tree, users_near

BRANCHES, LEAVES = 4, 4
NODES = BRANCHES * LEAVES
BASE = LTIConfig(
    num_nodes=NODES,
    total_steps=300,
    warmup_steps=10,
    num_negatives=32,
    kmeans_iterations=10,
    alpha_max=40.0,
)


@functools.cache
def planted():
    items, branch, leaf = tree(0, items=320, width=12, branches=BRANCHES, leaves=LEAVES, noise=0.3)
    users, liked = users_near(1, items, users=800, noise=0.3)
    return items, users, liked, branch, leaf


def learned(learner):
    items, users, liked, _, leaf = planted()
    found = learner.learn(users, items, positives=liked, key=jax.random.key(0))
    metrics, assignment = telemetry(items, found.nodes[-1], alpha=1.0)
    return found, metrics, purity(np.asarray(assignment.node), leaf)


def lti(tx=None, **options):
    config = dataclasses.replace(BASE, **options)
    return LTI(config=config, tx=optax.adam(1e-2) if tx is None else tx, batch_size=128)


# The remedies against collapse, and the same settings without them. Under Adam, whose steps do
# not shrink with the gradient, nodes come back by themselves on a tree of this size.
SGD = {"tx": optax.sgd(0.05), "start": "random", "total_steps": 150}
ON = {"balance_weight": 1.0, "dead_after": 5}
OFF = {"balance_weight": 0.0, "alpha_exponent": 0.0, "warmup_steps": 0}
RANDOM_EMA = EMA(num_nodes=NODES, steps=100, batch_size=128, decay=0.9, start="random")

LEARNERS = {
    "kmeans": KMeans(num_nodes=(BRANCHES, NODES)),
    "lti": lti(**SGD, **ON),
    "sinkhorn": lti(assignment="sinkhorn", balance_weight=0.0, total_steps=100),
    "em": EM(config=BASE, tx=optax.adam(1e-2), rounds=5, batch_size=128),
    "ema": dataclasses.replace(RANDOM_EMA, dead_after=10),
}


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.filterwarnings("ignore::hsnn_jax.nodes.telemetry.CollapseWarning")  # on the way
def test_with_its_remedies_a_learner_uses_all_nodes_evenly(name):
    found, metrics, pure = learned(LEARNERS[name])
    assert metrics["used_share"] >= 0.99
    assert metrics["imbalance"] <= 3.0
    assert pure > 0.8
    assert len(found.parents) == len(found.nodes)


def test_kmeans_levels_nest():
    found, _, _ = learned(LEARNERS["kmeans"])
    coarse, fine = build_levels(planted()[0], found.nodes, parents=found.parents)
    assert sorted(coarse.lists[coarse.lists >= 0].tolist()) == list(range(NODES))
    assert int(fine.counts.sum()) == 320


@pytest.mark.parametrize("learner", [lti(**SGD, **OFF), RANDOM_EMA])
def test_without_remedies_a_random_start_collapses_and_warns(learner):
    with pytest.warns(CollapseWarning):
        _, metrics, pure = learned(dataclasses.replace(learner, log_every=20))
    assert metrics["used_share"] < 0.5
    assert pure < 0.6


def test_residual_levels_use_all_codes_and_quantise_better_than_one():
    items = planted()[0]
    errors = []
    # At weight 1 the supervised loss wins: nodes that serve inner products leave the items.
    options = {"total_steps": 100, "reconstruction_weight": 10.0}
    for num_nodes in ((BRANCHES,), (BRANCHES, LEAVES)):
        found, _, _ = learned(lti(num_nodes=num_nodes, **options))
        for level in range(1, len(num_nodes) + 1):
            assert found.metrics[-1][f"index_{level}_used_share"] == 1.0
            assert found.metrics[-1][f"index_{level}_imbalance"] <= 3.0
        errors.append(float(np.mean(nearest(items, found.nodes[-1])[1] ** 2)))
    assert errors[1] < 0.8 * errors[0]
    coarse, fine = build_levels(items, found.nodes, parents=found.parents)
    # Codes (i, j) are node 4 i + j, a child of node i.
    np.testing.assert_array_equal(coarse.lists, np.arange(NODES).reshape(BRANCHES, LEAVES))
    assert int(fine.counts.sum()) == 320


def test_the_same_key_gives_the_same_nodes():
    learner = dataclasses.replace(LEARNERS["ema"], steps=30)
    a, b = (learned(learner)[0].nodes[0] for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_sinkhorn_balances_columns_and_keeps_rows():
    logits = jnp.asarray(3 * np.random.default_rng(0).normal(size=(40, 6)), jnp.float32)
    np.testing.assert_array_equal(sinkhorn(logits, iterations=0), jax.nn.softmax(logits, axis=1))
    # The plain algorithm, in float64, scaling columns and then rows.
    expected = np.exp(np.asarray(logits, float))
    expected /= expected.sum(axis=1, keepdims=True)
    for _ in range(3):
        expected *= 40 / 6 / expected.sum(axis=0, keepdims=True)
        expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(sinkhorn(logits, iterations=3), expected, rtol=1e-4)
    even = sinkhorn(logits, iterations=300)
    np.testing.assert_allclose(even.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(even.sum(axis=0), 40 / 6, rtol=1e-3)
    # Logits whose exponentials overflow or vanish.
    assert np.isfinite(sinkhorn(1e4 * logits, iterations=5)).all()
    weights = jnp.asarray([1.0] * 30 + [0.0] * 10)
    np.testing.assert_allclose(
        sinkhorn(logits, iterations=5, weights=weights)[:30],
        sinkhorn(logits[:30], iterations=5),
        rtol=1e-4,
    )


def test_ema_equals_a_slow_version():
    rng = np.random.default_rng(0)
    nodes = rng.normal(size=(4, 3)).astype(np.float32)
    nodes[3] = 50.0  # no vector is near
    state = ema_start(jnp.asarray(nodes), 12)
    counts, sums = np.full(4, 3.0), 3.0 * nodes.astype(float)
    means = nodes.astype(float)
    for _ in range(5):
        batch = rng.normal(size=(12, 3)).astype(np.float32)
        state = ema_update(state, jnp.asarray(batch), key=None, decay=0.8)
        node = np.linalg.norm(batch[:, None] - means[None], axis=2).argmin(axis=1)
        for k in range(4):
            counts[k] = 0.8 * counts[k] + 0.2 * (node == k).sum()
            sums[k] = 0.8 * sums[k] + 0.2 * batch[node == k].sum(axis=0)
            means[k] = sums[k] / counts[k]
        np.testing.assert_allclose(state.nodes, means, rtol=1e-4, atol=1e-5)


def test_only_nodes_idle_for_long_are_replaced_by_far_vectors():
    nodes = jnp.asarray([[0.0, 0.0], [90.0, 0.0], [0.0, 90.0], [90.0, 90.0]])
    near, far = 1e-3 * np.ones((6, 2)), np.array([[9.0, 8.0], [8.0, 9.0]])
    vectors = jnp.asarray(np.concatenate([near, far]), jnp.float32)
    idle = jnp.asarray([0, 1, 2, 2])
    replace = functools.partial(replace_dead, nodes, idle, vectors=vectors, dead_after=3)
    found, counter, replaced = replace(key=jax.random.key(0))
    np.testing.assert_array_equal(replaced, [False, False, True, True])
    np.testing.assert_array_equal(counter, [0, 2, 0, 0])
    np.testing.assert_array_equal(found[:2], nodes[:2])
    assert {tuple(v) for v in np.asarray(found[2:]).tolist()} == {(9.0, 8.0), (8.0, 9.0)}
    np.testing.assert_array_equal(found, replace(key=jax.random.key(0))[0])
    assert any((replace(key=jax.random.key(k))[0] != found).any() for k in range(1, 6))


def test_natural_hierarchy_nests_means():
    items = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    creators, countries = np.array([0, 1, 2, 3, 0, 1, 2, 2]), np.array([1, 0, 1, 1])
    found = NaturalHierarchy(groups=(countries, creators)).learn(
        None, items, positives=None, key=None
    )
    np.testing.assert_allclose(found.nodes[1][2], items[[2, 6, 7]].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.nodes[0][0], items[[1, 5]].mean(axis=0), rtol=1e-5)
    coarse, fine = build_levels(items, found.nodes, parents=found.parents, reserve=2)
    assert [set(row[row >= 0].tolist()) for row in np.asarray(coarse.lists)] == [{1}, {0, 2, 3}]
    np.testing.assert_array_equal(fine.positions[:8] // fine.lists.shape[1], creators)
    assert fine.positions.size == 10
    for groups, message in (
        ((creators[:5],), r"groups: expected one per item at the end, shape \[8\], found \[5\]"),
        ((countries[:2], creators), r"groups\[0\]: expected .* of each of 4 members, found 2"),
    ):
        with pytest.raises(ValueError, match=message):
            NaturalHierarchy(groups=groups).learn(None, items, positives=None, key=None)


def test_under_a_given_assignment_an_item_is_its_node_and_a_pair_without_weight_is_none():
    items, users, liked, *_ = planted()
    config = dataclasses.replace(BASE, warmup_steps=0, in_batch=False, logit_scale=2.0)
    nodes, node_of, shared = items[:NODES], np.arange(len(items)) % NODES, np.arange(5)

    def loss(pairs, **weights):
        batch = {"users": users[pairs], "positives": items[liked[pairs]], **weights}
        batch |= {"positive_ids": liked[pairs], "negative_ids": shared}
        batch |= {"negatives": items[shared]}
        given = {"node_of": jnp.asarray(node_of), "step": 0, "config": config}
        return float(em_loss({"nodes": jnp.asarray(nodes)}, batch, **given))

    one, two = (np.asarray([pair]) for pair in (0, 1))
    for pair in (one, two):
        own, others = (
            2.0 * users[pair[0]] @ nodes[node_of[ids]].T for ids in (liked[pair[0]], shared)
        )
        others = others[shared != liked[pair[0]]]
        error = np.sum((nodes[node_of[liked[pair[0]]]] - items[liked[pair[0]]]) ** 2)
        expected = np.log(np.exp(own) + np.exp(others).sum()) - own
        expected += config.reconstruction_weight * error
        assert loss(pair) == pytest.approx(expected, rel=1e-4)
    both = np.concatenate([one, two])
    assert loss(both) == pytest.approx((loss(one) + loss(two)) / 2, rel=1e-5)
    assert loss(both, weights=jnp.asarray([1.0, 0.0])) == pytest.approx(loss(one), rel=1e-5)


def test_residual_nodes_are_all_sums():
    codes = [np.random.default_rng(k).normal(size=(k, 2)).astype(np.float32) for k in (2, 3, 4)]
    nodes, parents = residual_nodes(codes)
    assert [n.shape[0] for n in nodes] == [2, 6, 24]
    assert parents[2] is None
    for i, j, k in ((0, 0, 0), (1, 2, 3), (1, 0, 2)):
        fine = 4 * (3 * i + j) + k
        expected = codes[0][i] + codes[1][j] + codes[2][k]
        np.testing.assert_allclose(nodes[2][fine], expected, rtol=1e-6)
        assert parents[1][fine] == 3 * i + j
        assert parents[0][3 * i + j] == i


def test_bad_input():
    items, users, liked, *_ = planted()
    fit = functools.partial(
        fit_em, users, items, positives=liked, tx=optax.sgd(1.0), key=jax.random.key(0)
    )
    with pytest.raises(ValueError, match=r"num_nodes: expected a single level, found \(2, 2\)"):
        fit(config=LTIConfig(num_nodes=(2, 2)))
    with pytest.raises(ValueError, match="rounds: expected 1 to 10, the steps, found 11"):
        fit(config=LTIConfig(total_steps=10), rounds=11)
    with pytest.raises(
        ValueError, match="nodes, parents: expected one each per level, found 1 and 2"
    ):
        build_levels(items, (items[:3],), parents=(None, None))
