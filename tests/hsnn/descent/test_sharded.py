import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from hsnn_jax.descent import descend
from hsnn_jax.descent.descend import Level
from hsnn_jax.descent.search import prepare, search, search_levels
from hsnn_jax.descent.sharded import (
    _sharded_search,
    shard_index,
    sharded_search,
    sharded_search_levels,
)
from hsnn_jax.lists.index import build_index, pack
from hsnn_jax.lists.levels import build_levels
from hsnn_jax.monn.scorers import dot
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


def same(many, one):
    for field in one._fields:
        np.testing.assert_array_equal(getattr(many, field), getattr(one, field), err_msg=field)


@pytest.mark.parametrize(
    ("devices", "masked", "ranked"), [(2, True, None), (2, True, 1), (8, False, None)]
)
def test_equals_one_device(devices, masked, ranked, monkeypatch):
    if ranked is not None:  # blocks of one round, also where a device holds several of the beam
        monkeypatch.setattr(descend, "_RANKED", ranked)
    index, tiles, users = problem()
    mesh, options = mesh_of(devices), masks() if masked else {}
    placed = shard_index(index, tiles, mesh=mesh, axis="nodes")
    for budget in (30, 70, ITEMS):
        one = search(
            dot, None, index=index, items=tiles, users=users, k=10, budget=budget, **options
        )
        many = sharded_search(
            dot,
            None,
            index=placed[0],
            tiles=placed[1],
            users=users,
            k=10,
            mesh=mesh,
            axis="nodes",
            budget=budget,
            **options,
        )
        same(many, one)


def level_problem():
    """Three levels that differ in users and features: integers, so that all sums are exact."""
    vectors, fine, coarse = (integers(s, n, 4) for s, n in ((0, ITEMS), (2, NODES), (3, 4)))
    indexes = build_levels(vectors, (coarse, fine), slack=1.3)
    features = [coarse, integers(4, NODES, 4), pack(indexes[-1], vectors)]
    users = [jnp.asarray(integers(5 + n, USERS, 4)) for n in range(3)]
    levels = [Level(dot, None, u, jax.tree.map(jnp.asarray, f)) for u, f in zip(users, features)]
    ensemble = {"weights": jnp.asarray(integers(8, 3, 3)), "bias": jnp.asarray(integers(9, 3))}
    return levels, indexes, ensemble


@pytest.mark.parametrize(
    ("devices", "masked"), [(1, True), (2, True), (4, True), (8, True), (4, False)]
)
def test_levels_equal_one_device(devices, masked):
    levels, indexes, ensemble = level_problem()
    mesh, options = mesh_of(devices), masks() | {"ensemble": ensemble} if masked else {}
    last, tiles = shard_index(indexes[-1], levels[-1].features, mesh=mesh, axis="nodes")
    placed = [*levels[:-1], levels[-1]._replace(features=tiles)], [*indexes[:-1], last]
    small = [index.lists.shape[1] for index in indexes]
    for budgets in (small, [small[0], 70], [NODES, ITEMS]):
        options |= {"budgets": budgets}
        one = search_levels(levels, indexes, k=10, **options)
        same(sharded_search_levels(*placed, k=10, mesh=mesh, axis="nodes", **options), one)
    assert (np.asarray(one.ids) >= 0).any()


def test_one_all_gather_and_no_gathered_tiles():
    index, tiles, users = problem()
    mesh = mesh_of(8)
    index, tiles = shard_index(index, tiles, mesh=mesh, axis="nodes")
    request, static = prepare(dot, None, index=index, users=users, k=10, budget=50, **masks())
    lowered = _sharded_search.lower(
        (index,), tiles, request, static=static, mesh=mesh, axis="nodes"
    )
    text = lowered.compile().as_text()
    assert text.count(" all-gather(") + text.count(" all-gather-start(") == 1
    for other in ("all-to-all", "all-reduce", "collective-permute"):
        assert f" {other}(" not in text


def test_nodes_that_do_not_divide():
    index, tiles, _ = problem()
    index = index._replace(nodes=index.nodes[:15])
    with pytest.raises(
        ValueError, match=r"num_nodes: expected a multiple of 8, the devices of .*, found 15"
    ):
        shard_index(index, tiles, mesh=mesh_of(8), axis="nodes")


def test_items_that_are_no_tiles():
    index, _, users = problem()
    with pytest.raises(ValueError, match="tiles: expected Tiles from shard_index, found ndarray"):
        sharded_search(
            dot,
            None,
            index=index,
            tiles=np.ones(3),
            users=users,
            k=5,
            mesh=mesh_of(2),
            axis="nodes",
            budget=ITEMS,
        )
    levels, indexes, _ = level_problem()
    levels[-1] = levels[-1]._replace(features=jnp.ones((ITEMS, 4)))
    with pytest.raises(ValueError, match=r"levels\[-1\].features: expected Tiles"):
        sharded_search_levels(
            levels, indexes, k=5, mesh=mesh_of(2), axis="nodes", budgets=[16, 150]
        )
