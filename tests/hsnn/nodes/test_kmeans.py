import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsnn_jax import distance
from hsnn_jax.distance import nearest, pairwise_distance
from hsnn_jax.nodes.kmeans import draw_rows, kmeans
from tests.hsnn.planted import clusters


def test_finds_planted_clusters():
    vectors, cluster = clusters(0, items=600, width=16, num_clusters=12, noise=0.3)
    centroids = kmeans(jnp.asarray(vectors), 12, key=jax.random.key(0), iterations=15)
    node, _ = nearest(vectors, centroids)
    # Every planted cluster falls into one node: pairs agree on "same node" and "same cluster".
    node = np.asarray(node)
    same_node, same_cluster = (x[:, None] == x[None, :] for x in (node, cluster))
    assert (same_node == same_cluster).mean() > 0.98


def test_iterations_lower_the_quantisation_error():
    vectors = np.random.default_rng(1).normal(size=(500, 8)).astype(np.float32)
    errors = [
        float(
            jnp.mean(
                nearest(vectors, kmeans(vectors, 20, key=jax.random.key(2), iterations=i))[1] ** 2
            )
        )
        for i in (1, 3, 12)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_empty_cluster_is_reseeded():
    # 9 distinct points, some repeated often: a start on repeats leaves clusters empty.
    vectors = np.repeat(np.eye(9, dtype=np.float32), [100, 1, 1, 1, 1, 1, 1, 1, 1], axis=0)
    centroids = kmeans(vectors, 9, key=jax.random.key(0), iterations=10)
    _, distances = nearest(vectors, centroids)
    np.testing.assert_allclose(distances, 0.0, atol=1e-5)


def test_nearest_in_blocks_equals_the_whole(monkeypatch):
    rng = np.random.default_rng(3)
    vectors, nodes = rng.normal(size=(53, 4)), rng.normal(size=(7, 4))
    monkeypatch.setattr(distance, "_MAX_BLOCK", 7 * 10)
    node, found = nearest(jnp.asarray(vectors), jnp.asarray(nodes), distance="squared_l2")
    exact = ((vectors[:, None, :] - nodes[None, :, :]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(node, exact.argmin(axis=1))
    np.testing.assert_allclose(found, exact.min(axis=1), rtol=1e-5, atol=1e-5)


def test_nearest_of_equally_near_nodes_is_the_first_that_is_not_blocked():
    nodes = jnp.asarray([[9.0], [1.0], [1.0], [-1.0]])
    node, gap = nearest(jnp.asarray([[0.0]]), nodes)
    assert (int(node[0]), float(gap[0])) == (1, pytest.approx(1.0))
    blocked = jnp.asarray([False, True, False, False])
    assert int(nearest(jnp.asarray([[0.0]]), nodes, blocked=blocked)[0][0]) == 2


def test_rows_are_drawn_in_proportion_to_their_weights():
    weights = jnp.asarray([0.0, 1.0, 0.0, 3.0, 0.0, 0.0, 4.0, 0.0])
    rows = np.asarray(draw_rows(jax.random.key(0), weights, count=8000))
    shares = np.bincount(rows, minlength=8) / 8000
    np.testing.assert_allclose(shares, weights / 8, atol=0.02)
    assert (shares[weights == 0] == 0).all()
    # Where every vector coincides with a seed there is nothing to choose: any row will do.
    assert 0 <= int(draw_rows(jax.random.key(0), jnp.zeros(8), count=1)[0]) < 8


@pytest.mark.parametrize("kind", ["l2", "squared_l2", "cosine"])
def test_distance_gradient_is_finite_where_points_coincide(kind):
    nodes = jnp.asarray([[1.0, 0.0], [0.0, 1.0]])
    gradient = jax.grad(lambda v: pairwise_distance(v, nodes, distance=kind).sum())(nodes)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(vectors=np.zeros(4), k=1), r"vectors: expected shape \[rows, d\], found \[4\]"),
        (dict(vectors=np.zeros((4, 2)), k=5), "k: expected 1 to 4, the vectors, found 5"),
        (
            dict(vectors=np.zeros((4, 2)), k=2, iterations=0),
            "iterations: expected a number >= 1, found 0",
        ),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        kmeans(**arguments, key=jax.random.key(0))


def test_unknown_distance():
    with pytest.raises(ValueError, match=r"distance: expected .*, found 'dot'"):
        pairwise_distance(jnp.zeros((1, 2)), jnp.zeros((1, 2)), distance="dot")
