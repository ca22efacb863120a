import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from hsnn_jax import build_index, pack, search, shard_index, sharded_search
from hsnn_jax.scorers import dot
from hsnn_jax.search import prepare
from hsnn_jax.sharded import _sharded_search
from tests.hsnn.planted import integers

ITEMS, NODES, USERS = 150, 16, 7


def problem():
    items, users = integers(0, ITEMS, 4), jnp.asarray(integers(1, USERS, 4))
    index = build_index(items, integers(2, NODES, 4), slack=1.3)
    return index, pack(index, jnp.asarray(items)), users


def mesh_of(devices):
    return jax.make_mesh((devices,), ("nodes",), axis_types=(AxisType.Auto,))


def masks():
    rng = np.random.default_rng(3)
    exclude = jnp.asarray(rng.integers(-1, ITEMS, (USERS, 9)), jnp.int32)
    return {"exclude": exclude, "allowed": jnp.asarray(rng.random(ITEMS) < 0.6)}


@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_one_device(devices, masked):
    index, tiles, users = problem()
    mesh, options = mesh_of(devices), masks() if masked else {}
    placed = shard_index(index, tiles, mesh, axis="nodes")
    for budget in (30, 70, ITEMS):
        one = search(dot, None, index, tiles, users, 10, budget=budget, **options)
        many = sharded_search(
            dot, None, *placed, users, 10, mesh=mesh, axis="nodes", budget=budget, **options
        )
        for field in one._fields:
            np.testing.assert_array_equal(getattr(many, field), getattr(one, field), err_msg=field)


def test_one_all_gather_and_no_gathered_tiles():
    index, tiles, users = problem()
    mesh = mesh_of(8)
    index, tiles = shard_index(index, tiles, mesh, axis="nodes")
    request, static = prepare(dot, None, index, users, 10, budget=50, **masks())
    lowered = _sharded_search.lower(index, tiles, request, static=static, mesh=mesh, axis="nodes")
    text = lowered.compile().as_text()
    assert text.count(" all-gather(") + text.count(" all-gather-start(") == 1
    for other in ("all-to-all", "all-reduce", "collective-permute"):
        assert f" {other}(" not in text


def test_nodes_that_do_not_divide():
    index, tiles, _ = problem()
    index = index._replace(nodes=index.nodes[:15])
    with pytest.raises(ValueError, match=r"8 devices of axis 'nodes' must divide.*15 nodes"):
        shard_index(index, tiles, mesh_of(8), axis="nodes")
