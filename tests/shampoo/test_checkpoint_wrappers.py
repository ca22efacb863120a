"""States as other libraries hold and write them."""

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import shampoo_jax
from shampoo_jax import Blocks
from tests.shampoo.grouped import grouped

PARAMS = {"layer/w": jnp.linspace(-1.0, 1.0, 60).reshape(12, 5), "b": jnp.ones((7,))}
OPTIONS = {"block_size": 8, "precondition_frequency": 2}


def _transform():
    return shampoo_jax.shampoo(optax.linear_schedule(0.1, 0.0, 9), **grouped(**OPTIONS))


def _gradients(seed, params=PARAMS):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)


def _continued(tx, state, seeds, params=PARAMS):
    step = jax.jit(tx.update)
    for seed in seeds:
        updates, state = step(_gradients(seed), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def _assert_equal(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_option_is_repeated():
    """A block size that is not the default, on a matrix that more than one block covers."""
    params = {"w": jnp.ones((24, 20))}
    tx = shampoo_jax.shampoo(1e-2, blocks=Blocks(block_size=8, round_to=16, max_pools=2))
    _, state = jax.jit(tx.update)(params, tx.init(params), params)
    again = shampoo_jax.from_canonical(
        shampoo_jax.to_canonical(state, params), tx.init(params), params=params
    )
    _assert_equal(again, state)


def test_from_eight_devices_to_one_with_a_schedule_outside():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    tx = _transform()
    with jax.set_mesh(mesh):
        shared = jax.device_put(PARAMS, NamedSharding(mesh, P()))
        _, state = jax.jit(tx.update)(shared, jax.jit(tx.init)(shared), shared)
    fresh = tx.init(PARAMS)
    tree = shampoo_jax.to_canonical(state, PARAMS)
    state = shampoo_jax.from_canonical(tree, fresh, params=PARAMS)
    for x, like in zip(jax.tree.leaves(state), jax.tree.leaves(fresh), strict=True):
        assert x.sharding == like.sharding
        assert x.committed == like.committed
    assert state[1].count == 1
    jax.jit(tx.update)(PARAMS, state, PARAMS)


@pytest.mark.parametrize("target", [True, False], ids=["with containers", "without"])
def test_orbax_restores_the_canonical_form(target, tmp_path):
    tx = _transform()
    params, state = _continued(tx, tx.init(PARAMS), range(3))
    tree = shampoo_jax.to_canonical(state, PARAMS)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", tree)
        checkpointer.wait_until_finished()
        tree = checkpointer.restore(tmp_path / "state", *([tree] if target else []))
    again = shampoo_jax.from_canonical(tree, tx.init(PARAMS), params=PARAMS)
    ends = [_continued(tx, s, range(3, 6), params)[0] for s in (state, again)]
    _assert_equal(*ends)


def test_orbax_and_flax_write_a_raw_state(tmp_path):
    tx = _transform()
    _, state = _continued(tx, tx.init(PARAMS), range(3))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", tx.init(PARAMS))
    text = flax.serialization.to_bytes(state)
    for again in (restored, flax.serialization.from_bytes(tx.init(PARAMS), text)):
        assert jax.tree.structure(again) == jax.tree.structure(state)
        _assert_equal(again, state)


def test_a_train_state_as_a_whole():
    """Its static fields, the model and the transformation, may be made anew."""
    make = lambda: TrainState.create(apply_fn=lambda: None, params=PARAMS, tx=_transform())  # noqa: E731
    whole = make()
    for seed in range(3):
        whole = jax.jit(lambda s, g: s.apply_gradients(grads=g))(whole, _gradients(seed))
    again = shampoo_jax.from_canonical(
        shampoo_jax.to_canonical(whole, whole.params), make(), params=PARAMS
    )
    assert int(again.step) == 3
    ends = [s.apply_gradients(grads=_gradients(3)).params for s in (whole, again)]
    _assert_equal(*ends)


def test_an_nnx_optimizer():
    def make():
        model = nnx.Linear(12, 5, rngs=nnx.Rngs(0))
        return model, nnx.Optimizer(model, _transform(), wrt=nnx.Param)

    def train(model, optimizer, seeds):
        for seed in seeds:
            optimizer.update(model, _gradients(seed, nnx.state(model, nnx.Param)))

    model, optimizer = make()
    train(model, optimizer, range(3))
    tree = shampoo_jax.to_canonical(optimizer.opt_state, nnx.state(model, nnx.Param))
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(tree))
    other, again = make()
    nnx.update(other, nnx.state(model))
    again.opt_state = shampoo_jax.from_canonical(
        tree, again.opt_state, params=nnx.state(other, nnx.Param)
    )
    for pair in ((model, optimizer), (other, again)):
        train(*pair, range(3, 6))
    _assert_equal(nnx.state(model), nnx.state(other))


def test_random_keys_outside_come_back():
    tx = optax.chain(optax.add_noise(0.1, 0.5, key=3), _transform())
    params, state = _continued(tx, tx.init(PARAMS), range(2))
    tree = shampoo_jax.to_canonical(state, PARAMS)
    again = shampoo_jax.from_canonical(tree, tx.init(PARAMS), params=PARAMS)
    ends = [_continued(tx, s, range(2, 4), params)[0] for s in (state, again)]
    _assert_equal(*ends)


def test_numbers_of_the_host_come_back_as_they_were():
    def init(params):
        return {"count": 3, "rate": 0.5, "list": np.arange(2.0), "one": np.ones(1)}

    kept = optax.GradientTransformation(init, lambda g, s, p=None: (g, s | {"count": 4}))
    tx = optax.chain(kept, _transform())
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    tree = shampoo_jax.to_canonical(state, PARAMS)
    again = shampoo_jax.from_canonical(tree, tx.init(PARAMS), params=PARAMS)
    assert again[0]["count"] == 4
    for name, value in state[0].items():
        assert type(again[0][name]) is type(value), name
    np.testing.assert_array_equal(again[0]["one"], [1.0])


def test_what_does_not_fit_is_refused_by_name():
    tx = _transform()
    state = tx.init(PARAMS)
    tree = shampoo_jax.to_canonical(state, PARAMS)
    with pytest.raises(ValueError, match=r"^params: expected \['b'\] of shape \(7,\), found only"):
        shampoo_jax.to_canonical(state, {"layer/w": PARAMS["layer/w"]})
    turned = {**PARAMS, "layer/w": PARAMS["layer/w"].T}
    with pytest.raises(ValueError, match=r"^params: expected shapes \[12, 5\] of .*, found"):
        shampoo_jax.from_canonical(tree, tx.init(turned), params=turned)
    with pytest.raises(
        ValueError, match=r"^tree: expected a leaf '1/count' as in like, found none"
    ):
        shampoo_jax.from_canonical(tree[:1], state, params=PARAMS)
    with pytest.raises(ValueError, match=r"^tree: expected only the leaves of like, found '1/coun"):
        shampoo_jax.from_canonical(tree, state[:1], params=PARAMS)
    pair = jax.tree.map(lambda x: jnp.stack([x, x]), PARAMS)
    with pytest.raises(ValueError, match=r"^state: expected that of one model, found a batch"):
        shampoo_jax.to_canonical(jax.vmap(tx.init)(pair), PARAMS)
