import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hsnn_jax import LTIConfig
from hsnn_jax.nodes.fit import fit_index
from hsnn_jax.nodes.telemetry import CollapseWarning, Monitor, collapsed, telemetry
from tests.hsnn import lti_reference
from tests.hsnn.planted import clusters, users_near


def drawn(seed, rows, width=3):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def nearest_of(vectors, nodes):
    return np.linalg.norm(vectors[:, None].astype(float) - nodes[None], axis=2)


def test_equals_a_slow_version():
    vectors, nodes, moved = drawn(0, 50), drawn(1, 8), drawn(1, 8) + 0.5 * drawn(2, 8)
    nodes[7] = moved[7] = 99.0  # nobody's
    first, assignment = telemetry(vectors, nodes, alpha=3.0)
    found, now = telemetry(vectors, moved, alpha=3.0, previous=assignment, capacity=6)
    assert {"flip_rate", "representative_churn", "overflow"}.isdisjoint(first)
    distances = [nearest_of(vectors, n) for n in (nodes, moved)]
    hard = [d.argmin(axis=1) for d in distances]
    counts = np.bincount(hard[1], minlength=8)
    share = counts[counts > 0] / 50
    gaps = [
        np.linalg.norm(lti_reference.soft(v, moved, 3.0, "l2")[0] - moved[k])
        for v, k in zip(vectors, hard[1])
    ]
    representatives = [
        [min(np.flatnonzero(h == k), key=lambda j: d[j, k], default=-1) for k in range(8)]
        for d, h in zip(distances, hard)
    ]
    np.testing.assert_array_equal(now.node, hard[1])
    np.testing.assert_array_equal(now.representatives, representatives[1])
    expected = {
        "used_nodes": (counts > 0).sum(),
        "used_share": (counts > 0).mean(),
        "perplexity": np.prod(share**-share),
        "max_occupancy": counts.max(),
        "mean_occupancy": 50 / 8,
        "imbalance": counts.max() * 8 / 50,
        "soft_hard_gap": np.mean(gaps),
        "flip_rate": np.mean(hard[0] != hard[1]),
        "representative_churn": np.mean(np.array(representatives[0]) != representatives[1]),
        "overflow": sum(max(c - 6, 0) for c in counts),
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
        assert type(found[name]) is float
    assert 0 < found["flip_rate"] < 1
    assert found["overflow"] > 0
    assert "soft_hard_gap" not in telemetry(vectors, nodes, alpha=None)[0]


@pytest.mark.parametrize(
    ("occupancy", "expected"),
    [
        ([5] * 10, False),
        ([10] * 5 + [0] * 5, False),
        ([10] * 4 + [0] * 6, True),  # few nodes
        ([91] + [1] * 9, True),  # one node holds nearly everything
    ],
)
def test_collapsed(occupancy, expected):
    nodes = np.arange(10, dtype=np.float32)[:, None]
    assert (
        collapsed(telemetry(np.repeat(nodes, occupancy, axis=0), nodes, alpha=1.0)[0]) == expected
    )


def test_monitor_measures_residual_levels():
    vectors, codes = drawn(3, 40), (jnp.asarray(drawn(4, 3)), jnp.asarray(0.3 * drawn(5, 4)))
    monitor = Monitor(vectors)
    monitor(codes, 2.0)
    record = monitor(codes, 2.0)
    assert record["index_2_flip_rate"] == 0.0
    coarse = np.asarray(codes[0])
    rest = vectors - coarse[nearest_of(vectors, coarse).argmin(axis=1)]
    expected, _ = telemetry(rest, codes[1], alpha=2.0)
    for name, value in expected.items():
        np.testing.assert_allclose(record[f"index_2_{name}"], value, rtol=1e-5)


def fitted(**options):
    items, _ = clusters(0, items=200, width=8, num_clusters=10, noise=0.3)
    users, liked = users_near(1, items, users=200, noise=0.3)
    config = LTIConfig(num_nodes=10, total_steps=9, num_negatives=8, **options)
    return fit_index(
        users, items, positives=liked, tx=optax.sgd(0.0), config=config, key=jax.random.key(0),
        batch_size=16, log_every=4, telemetry_every=3,
    )  # fmt: skip


def test_records_hold_telemetry_at_its_steps():
    records = fitted().metrics
    assert [record["step"] for record in records] == [3, 4, 6, 8, 9]
    assert ["loss" in record for record in records] == [False, True, False, True, False]
    assert ["index_perplexity" in r for r in records] == [True, False, True, False, True]
    assert records[-1]["index_flip_rate"] == 0.0  # the nodes do not move
    assert records[-1]["index_used_nodes"] == 10.0


def test_a_collapse_warns_once_in_one_line():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        items = np.zeros((20, 2), np.float32)
        monitor = Monitor(items)
        for _ in range(3):
            monitor(jnp.asarray([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]), 1.0)
    assert [w.category for w in caught] == [CollapseWarning]
    assert str(caught[0].message) == (
        "the index has collapsed: 1 of 3 nodes are used, perplexity 1.0 (index)"
    )
