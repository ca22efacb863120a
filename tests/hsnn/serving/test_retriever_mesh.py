"""A retriever over a mesh is one on one device, through updates and the file."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from hsnn_jax import LTIConfig, Retriever, RouteConfig
from hsnn_jax.descent.sharded import _sharded_search
from hsnn_jax.monn import network as monn
from hsnn_jax.monn.config import Features, MoNNConfig, TowerConfig
from tests.hsnn.planted import integers, same_answers

ITEMS, RESERVE, USERS, K = 60, 8, 5, 4
IDS = 7 + 3 * np.arange(ITEMS)
NODES = {"two levels": (2, 4), "a model": 8}
TOWER = TowerConfig(field_width=4, dense_fields=1, num_layers=1, hidden=8, attention_width=4)
MODEL = MoNNConfig(
    num_user=1,
    num_item=2,
    num_interaction=0,
    overarch="mol",
    width=4,
    user=Features(dense={"taste": 4}),
    item=Features(dense={"text": 4}),
    tasks=("click",),
    user_tower=TOWER,
    item_tower=TOWER,
    interaction_tower=TOWER,
)


def mesh_of(devices):
    """A mesh as `jax.make_mesh` makes it, with Explicit axes."""
    return jax.make_mesh((devices,), ("lists",))


def retriever_of(kind, **options):
    config = LTIConfig(num_nodes=NODES[kind], kmeans_iterations=3)
    if kind == "a model":
        options |= {"model": MODEL, "params": monn.init_monn(jax.random.key(1), MODEL)}
    return Retriever(config, nested=kind == "two levels", **options)


def read_as(kind, name, vectors):
    return {name: vectors} if kind == "a model" else vectors


def changes(kind):
    """What happens to a retriever, step by step."""
    items = integers(0, ITEMS, 4).astype(np.float32)
    given = lambda rows: read_as(kind, "text", rows)  # noqa: E731
    yield lambda r: r.build_index(given(items), item_ids=IDS, reserve=RESERVE)
    yield lambda r: r.add(given(items[:5] + 0.5), 1000 + np.arange(5))
    yield lambda r: r.remove(IDS[3:20])
    yield lambda r: r.reassign(given(items[20:23] - 1.5), IDS[20:23])


def ask(retriever, kind):
    users = read_as(kind, "taste", integers(1, USERS, 4).astype(np.float32))
    allowed = np.arange(ITEMS + RESERVE) % 3 > 0
    exclude = np.tile(IDS[30:36], (USERS, 1))
    allowed = retriever.ids[allowed & (retriever.ids >= 0)]
    masks = {"exclude": exclude, "allowed": allowed}
    return [retriever.search(users, K, budget=b, **masks) for b in (30, ITEMS)]


@pytest.mark.long
def test_answers_are_those_of_one_device(tmp_path):
    kind = "a model"
    alone, spread = retriever_of(kind), retriever_of(kind, mesh=mesh_of(4), axis="lists")
    for number, change in enumerate(changes(kind)):
        change(alone), change(spread)
        for one, many in zip(ask(alone, kind), ask(spread, kind)):
            assert (one.ids >= 0).any()
            # A device scores other numbers of items at once, and XLA sums in another order.
            np.testing.assert_array_max_ulp(many.scores, one.scores, maxulp=4)
            same_answers(dataclasses.replace(many, scores=one.scores), one)
        if number == 0:
            programs = _sharded_search._cache_size()
    assert _sharded_search._cache_size() == programs
    assert alone.stats() == spread.stats()
    spread.save(tmp_path / "items")
    loaded = Retriever.load(tmp_path / "items", mesh=mesh_of(2))
    for one, many in zip(ask(alone, kind), ask(loaded, kind)):
        np.testing.assert_array_equal(many.ids, one.ids)


def test_every_device_holds_its_lists_alone():
    spread = retriever_of("a model", mesh=mesh_of(4))
    for change in changes("a model"):
        change(spread)
        held = spread._now.items
        for part in jax.tree.leaves((held.index.lists, held.tiles, held.features)):
            assert {shard.data.shape[0] for shard in part.addressable_shards} == {2}
        assert held.index.nodes.sharding.is_fully_replicated


@pytest.mark.long
def test_a_frontier_is_measured_over_a_mesh():
    frontiers = []
    users = integers(1, USERS, 4).astype(np.float32)
    for mesh in (None, mesh_of(2)):
        retriever = retriever_of("two levels", mesh=mesh)
        next(changes("two levels"))(retriever)
        frontiers.append(retriever.frontier(users, K, budgets=(20, ITEMS)))
    assert frontiers[0] == frontiers[1]
    assert frontiers[0][-1].recall == 1.0


@pytest.mark.long
def test_routes_are_learned_and_read_over_a_mesh(tmp_path):
    kind, config = "a model", RouteConfig(budget=30, steps=20, batch_size=16)
    spread = retriever_of(kind, mesh=mesh_of(4))
    next(changes(kind))(spread)
    tastes = read_as(kind, "taste", integers(2, 40, 4).astype(np.float32))
    losses = spread.fit_routes(tastes, optax.adam(0.3), k=K, config=config)
    assert losses[-1] < losses[0]
    spread.save(tmp_path / "routed")
    alone = Retriever.load(tmp_path / "routed")
    assert alone._now.routes is not None
    for one, many in zip(ask(alone, kind), ask(spread, kind)):
        np.testing.assert_array_equal(many.ids, one.ids)


@pytest.mark.parametrize(
    ("devices", "axis", "message"),
    [
        (3, "rows", "axis: expected one of lists, found 'rows'"),
        (3, None, "num_nodes: expected a multiple of 3, the devices of axis 'lists', found 8"),
        (0, "lists", "axis: expected none without a mesh, found 'lists'"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(devices, axis, message):
    with pytest.raises(ValueError, match=message):
        retriever_of("two levels", mesh=mesh_of(devices) if devices else None, axis=axis)
