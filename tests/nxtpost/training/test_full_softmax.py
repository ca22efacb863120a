from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nxtpost_jax.training.full_softmax import chunked_logsumexp, sharded_logsumexp

POSITIONS, D = 7, 5


@pytest.fixture
def mesh():
    return jax.make_mesh((8,), ("items",), axis_types=(AxisType.Auto,))


def drawn(num_items, scale=3.0, positions=POSITIONS):
    rng = np.random.default_rng(num_items)
    return (
        (scale * rng.normal(size=(positions, D))).astype(np.float32),
        rng.normal(size=(num_items, D)).astype(np.float32),
        rng.normal(size=positions).astype(np.float32),
    )


def reference(queries, items, weights):
    """Float64, all products at once: weights . logsumexp and its gradients."""
    queries, items, weights = (np.asarray(x, np.float64) for x in (queries, items, weights))
    logits = queries @ items.T
    top = logits.max(axis=1, keepdims=True)
    sums = np.exp(logits - top).sum(axis=1)
    slopes = weights[:, None] * np.exp(logits - top) / sums[:, None]
    values = top[:, 0] + np.log(sums)
    return values, slopes @ items, slopes.T @ queries


def check(logsumexp, num_items, scale=3.0):
    queries, items, weights = drawn(num_items, scale)

    @jax.jit
    def both(queries, items):
        value = logsumexp(queries, items)
        return jnp.sum(value * weights), value

    (_, values), grads = jax.value_and_grad(both, argnums=(0, 1), has_aux=True)(queries, items)
    for found, expected in zip((values, *grads), reference(queries, items, weights)):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("num_items, chunk", [(1, 4), (9, 1), (11, 2), (12, 4), (13, 4), (5, 99)])
def test_chunks_give_the_plain_value_and_gradient(num_items, chunk):
    check(partial(chunked_logsumexp, chunk=chunk), num_items)


@pytest.mark.parametrize("num_items, chunk", [(3, 4), (9, 1), (64, 3), (100, 4), (100, 99)])
def test_eight_devices_give_the_plain_value_and_gradient(mesh, num_items, chunk):
    check(partial(sharded_logsumexp, mesh=mesh, axis="items", chunk=chunk), num_items)


def test_items_are_dealt_over_several_axes():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    check(partial(sharded_logsumexp, mesh=mesh, axis=("data", "model"), chunk=2), 37)


def test_large_logits_neither_overflow_nor_vanish(mesh):
    for logsumexp in (chunked_logsumexp, partial(sharded_logsumexp, mesh=mesh, axis="items")):
        check(partial(logsumexp, chunk=3), 20, scale=1e4)


def lowered(logsumexp, positions, num_items, width, shardings=(None, None)):
    gradient = jax.value_and_grad(lambda q, x: jnp.sum(logsumexp(q, x)), argnums=(0, 1))
    shapes = [
        jax.ShapeDtypeStruct((rows, width), jnp.float32, sharding=sharding)
        for rows, sharding in zip((positions, num_items), shardings)
    ]
    return jax.jit(gradient).lower(*shapes).compile()


def test_memory_is_a_chunk_and_not_all_products():
    positions, num_items, width = 256, 100_000, 4
    compiled = lowered(partial(chunked_logsumexp, chunk=1024), positions, num_items, width)
    products = 4 * positions * num_items
    assert compiled.memory_analysis().temp_size_in_bytes < products / 10


def test_a_million_items_on_eight_devices(mesh):
    positions, num_items, width = 2048, 1_000_000, 8
    logsumexp = partial(sharded_logsumexp, mesh=mesh, axis="items", chunk=1024)
    shardings = [NamedSharding(mesh, spec) for spec in (P(), P("items"))]
    compiled = lowered(logsumexp, positions, num_items, width, shardings)
    products = 4 * positions * num_items / 8
    assert compiled.memory_analysis().temp_size_in_bytes < products / 10
    # The gradient of the items stays where they are; only numbers a position travel.
    text = compiled.as_text()
    assert "all-gather" not in text and "all-to-all" not in text


def test_rows_go_in_passes_where_products_would_leave_the_cache(monkeypatch):
    monkeypatch.setattr("nxtpost_jax.training.full_softmax._CACHED", 2 * 12)
    check(partial(chunked_logsumexp, chunk=99), 12)
