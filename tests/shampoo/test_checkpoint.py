"""Canonical checkpoints move between meshes and pool caps; memory is told in advance."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import shampoo_jax
from tests.shampoo.grouped import grouped, long

SHAPES = {"a": (20, 12), "b": (7,), "c": (3, 9, 10), "d": (16, 16)}
PLAN = {"block_size": 8, "max_pools": 4}
OPTIONS = {"precondition_frequency": 2, "eps": 1e-2, "momentum": 0.5, "weight_decay": 0.1}


def _draw(seed):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in SHAPES.items()}


def _mesh(shape):
    names = ("x", "y")[: len(shape)]
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape), devices=devices)


def _train(plan, mesh, params, state, seeds):
    tx = shampoo_jax.shampoo(0.1, **grouped(**plan, **OPTIONS))

    @jax.jit
    def step(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    with jax.set_mesh(mesh):
        params = jax.device_put(params, NamedSharding(mesh, P()))
        fresh = jax.jit(tx.init)(params)
        state = fresh if state is None else shampoo_jax.from_canonical(state, fresh, params=params)
        for seed in seeds:
            params, state = step(
                jax.device_put(_draw(seed), NamedSharding(mesh, P())), state, params
            )
    return jax.device_get(params), state


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Three steps on 8 devices, saved and restored by orbax."""
    params, state = _train(PLAN, _mesh((8,)), _draw(0), None, range(1, 4))
    tree = shampoo_jax.to_canonical(state, params)
    path = tmp_path_factory.mktemp("checkpoint") / "state"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)
    with ocp.StandardCheckpointer() as checkpointer:
        return params, checkpointer.restore(path, tree)


@pytest.fixture(scope="module")
def uninterrupted():
    return _train(PLAN, _mesh((8,)), _draw(0), None, range(1, 8))[0]


@pytest.mark.parametrize(
    "shape",
    [(1,), (4, 2), *long((2,), (4,), (8,))],
    ids=str,
)
def test_training_continues_on_another_mesh(shape, saved, uninterrupted):
    params, tree = saved
    found, _ = _train(PLAN, _mesh(shape), params, tree, range(4, 8))
    for name, value in uninterrupted.items():
        if shape == (8,):
            np.testing.assert_array_equal(found[name], value)
        np.testing.assert_allclose(found[name], value, atol=2e-6)


def test_training_continues_under_another_pool_cap(saved, uninterrupted):
    params, tree = saved
    other = {"block_size": 8, "max_pools": 1, "round_to": 2}
    found, _ = _train(other, _mesh((8,)), params, tree, range(4, 8))
    for name, value in uninterrupted.items():
        np.testing.assert_allclose(found[name], value, atol=2e-6)


def test_the_canonical_form_does_not_depend_on_the_mesh(saved):
    _, tree = saved
    alone, state = _train(PLAN, _mesh((1,)), _draw(0), None, range(1, 4))
    other = shampoo_jax.to_canonical(state, alone)
    assert jax.tree.structure(other) == jax.tree.structure(tree)
    assert jax.tree.map(np.shape, other) == jax.tree.map(np.shape, tree)


def test_another_block_size_is_refused_by_name(saved):
    params, tree = saved
    fresh = shampoo_jax.shampoo(0.1, **grouped(block_size=16, **OPTIONS)).init(params)
    with pytest.raises(ValueError, match=r"block_size: expected 8 .*, found 16"):
        shampoo_jax.from_canonical(tree, fresh, params=params)


def test_an_option_that_a_checkpoint_does_not_tell_is_not_compared(saved):
    params, tree = saved
    told = dict(tree[0]["plan"])
    del told["block_size"]
    shorter = (tree[0] | {"plan": told}, *tree[1:])
    fresh = shampoo_jax.shampoo(0.1, **grouped(**PLAN, **OPTIONS)).init(params)
    again = shampoo_jax.from_canonical(shorter, fresh, params=params)
    whole = shampoo_jax.from_canonical(tree, fresh, params=params)
    jax.tree.map(np.testing.assert_array_equal, again, whole)


def test_other_parameters_and_other_moments_are_refused_by_name(saved):
    params, tree = saved
    fewer = {k: v for k, v in params.items() if k != "b"}
    fresh = shampoo_jax.shampoo(0.1, **grouped(**PLAN, **OPTIONS)).init(fewer)
    with pytest.raises(ValueError, match=r"params: expected \[\"\['b'\]\"\] .* found \[\]"):
        shampoo_jax.from_canonical(tree, fresh, params=fewer)
    fresh = shampoo_jax.shampoo(0.1, **grouped(**PLAN, **OPTIONS | {"momentum": 0.0})).init(params)
    with pytest.raises(ValueError, match=r"momentum: expected a state with the moments"):
        shampoo_jax.from_canonical(tree, fresh, params=params)


@pytest.mark.parametrize("make", [shampoo_jax.kl_shampoo, shampoo_jax.kl_soap])
def test_eigenvalues_of_factors_continue_in_other_padding(make):
    params = {"w": _draw(0)["d"]}

    def steps(tx, params, state, seeds):
        for seed in seeds:
            updates, state = jax.jit(tx.update)({"w": _draw(seed)["d"]}, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    first, second = (
        make(0.1, eps=1e-2, **grouped(block_size=8, precondition_frequency=2, round_to=n))
        for n in (4, 8)
    )
    params, state = steps(first, params, first.init(params), range(4))
    tree = shampoo_jax.to_canonical(state, params)
    again = shampoo_jax.from_canonical(tree, second.init(params), params=params)
    expected, _ = steps(first, params, state, range(4, 7))
    found, _ = steps(second, params, again, range(4, 7))
    np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-4, atol=1e-4)
    plan = grouped(block_size=8, exponents=lambda shape: (0.5, 0.5))
    other = shampoo_jax.shampoo(0.1, grafting=None, **plan)
    with pytest.raises(ValueError, match=r"^(root|preconditioner): expected a state with the mom"):
        shampoo_jax.from_canonical(tree, other.init(params), params=params)


@pytest.mark.parametrize("kind", ["root_inverse", "eigendecomposed"])
@pytest.mark.parametrize("devices", [1, 8])
def test_memory_is_what_is_allocated(devices, kind):
    options = grouped(preconditioner=kind, **PLAN)
    told = shampoo_jax.memory(_draw(0), devices=devices, **options)
    tx = shampoo_jax.scale_by_shampoo(**options)
    with jax.set_mesh(_mesh((devices,))):
        state = jax.jit(tx.init)(_draw(0))
    found = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state.pools))
    assert told["total"] == found
    assert told["factors"] > 0
    assert (told["spectra"] > 0) == (kind == "eigendecomposed")
    with pytest.raises(ValueError, match="devices: expected at least 1, found 0"):
        shampoo_jax.memory(_draw(0), devices=0)
