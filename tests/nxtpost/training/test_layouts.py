"""Where a training lies on a mesh: Shampoo's blocks and large parameters are dealt, and stay so."""

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import shampoo_jax
from nxtpost_jax.serving.recommender import Recommender
from nxtpost_jax.towers.model import NxtPost
from nxtpost_jax.training import layouts, steps
from nxtpost_jax.training.objective import MIXED, resolve
from nxtpost_jax.training.task import task
from tests.nxtpost.small_recommender import FAST, TINY, N, cycles

MANY = 2048  # a table of as many numbers as are dealt, 2**15


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])


def stepped(tx, mesh, *, num_items, **how):
    """Take a step, and give the state after it."""
    model = NxtPost(TINY, num_items)
    posed = task(model, cycles(num_items=num_items), objective=resolve(None, 16, rest=MIXED))
    state = steps.init(posed, tx, mesh, average=0.1)
    where = steps.placed(posed, tx, layouts.dealt(state, mesh, **how))
    *_, (state, _) = steps.taken(posed, where.place(state), posed.batches(0), where=where)
    return state


def dealt(tree):
    """Name the leaves that no device holds whole, and how they are dealt."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")  # noqa: E731
    return {name(path): x.sharding.spec for path, x in leaves if not x.is_fully_replicated}


def test_the_blocks_of_shampoo_stay_with_their_devices(mesh):
    state = stepped(shampoo_jax.shampoo(1e-2), mesh, num_items=N)
    pools = state.opt_state[0].pools
    kept = [x for pool in pools for x in jax.tree.leaves((pool.factors, pool.roots, pool.filtered))]
    assert len(kept) >= 6
    for leaf in kept:
        assert leaf.sharding.spec == P("data")
        assert leaf.addressable_shards[0].data.size == leaf.size // 4
    assert dealt(state.params) == dealt(state.average) == {}


@pytest.mark.parametrize("tx", [FAST, shampoo_jax.shampoo(1e-2)], ids=["adam", "shampoo"])
def test_large_parameters_are_dealt_and_what_is_beside_them(mesh, tx):
    state = stepped(tx, mesh, num_items=MANY, fsdp=True)
    table = "post_tower/id_embedding"
    assert dealt(state.params) == {table: P("data")}
    assert dealt(state.average) == {f"params/{table}": P("data")}
    moments = {name for name in dealt(state.opt_state) if name.endswith(table)}
    assert moments == ({f"0/mu/{table}", f"0/nu/{table}"} if tx is FAST else set())
    whole = stepped(tx, mesh, num_items=MANY)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(state.params)):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_fit_by_dealt_parameters_is_that_of_one_device_and_goes_on(mesh, tmp_path):
    """By SGD: Adam would take the rounding of a gradient of zero for a sign."""
    how = {"batch_size": 32, "num_negatives": 16, "progress": False}

    def fit(epochs=2, **options):
        recommender = Recommender(TINY, num_items=MANY, tx=optax.sgd(0.1))
        records = recommender.fit(cycles(num_items=MANY), epochs=epochs, **how, **options)
        return [record["loss"] for record in records], recommender.params

    one, params = fit()
    whole = {"mesh": mesh, "fsdp": True}
    four, others = fit(checkpoint=tmp_path / "kept", **whole)
    assert one == pytest.approx(four, rel=1e-5)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(others)):
        assert len(b.sharding.device_set) == 1  # it is served where requests are
        np.testing.assert_allclose(a, b, atol=1e-5)
    again, same = fit(checkpoint=tmp_path / "kept", **whole)
    assert again == four
    jax.tree.map(np.testing.assert_array_equal, same, others)
    with pytest.raises(ValueError, match="checkpoint: expected the call that it is of, fsdp=True"):
        fit(checkpoint=tmp_path / "kept", mesh=mesh)


def test_what_cannot_be_dealt_is_refused(mesh):
    small = Recommender(TINY, num_items=N, tx=FAST)
    expected = "fsdp: expected a parameter of 16,384 numbers or more .* 4 devices .*, found none"
    with pytest.raises(ValueError, match=expected):
        small.fit(cycles(), epochs=1, batch_size=32, mesh=mesh, fsdp=True)
    with pytest.raises(ValueError, match="fsdp: expected a mesh beside True, found none"):
        small.fit(cycles(), epochs=1, fsdp=True)
