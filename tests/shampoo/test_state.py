"""The state as an object: its arrays are its own, and what it says of itself is true."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import shampoo_jax
from shampoo_jax import Blocks, Root, grafting, paper_exponents
from tests.shampoo.grouped import grouped

METHODS = {
    "auto": "auto",
    "none": None,
    "sgd": grafting.sgd(),
    "adam": grafting.adam(),
    "adagrad": grafting.adagrad(),
    "rmsprop": grafting.rmsprop(),
    "optax": optax.scale_by_adam(),
    "momentum": optax.trace(0.9),
}
KINDS = ("root_inverse", "eigendecomposed", "eigenvalue_corrected", "soap")
SPACE = list(itertools.product(KINDS, METHODS, ((0.0, 0.9), (0.5, 0.0))))


def _params():
    rng = np.random.default_rng(0)
    return {"w": jnp.asarray(rng.normal(size=(4, 3))), "b": jnp.asarray(rng.normal(size=(5,)))}


def _make(kind, method, averages):
    momentum, b1 = averages
    return shampoo_jax.shampoo(
        1e-2,
        grafting=METHODS[method],
        momentum=momentum,
        b1=b1,
        weight_decay=1e-2,
        blocks=Blocks(block_size=8),
        root=Root(preconditioner=kind),
    )


@pytest.mark.parametrize("init", [lambda f: f, jax.jit], ids=["eager", "jitted"])
def test_no_array_stands_in_two_fields(init):
    for drawn in SPACE:
        state = init(_make(*drawn).init)(_params())
        arrays = [x for x in jax.tree.leaves(state) if x.size]
        assert len({id(x) for x in arrays}) == len(arrays), drawn
        assert len({x.unsafe_buffer_pointer() for x in arrays}) == len(arrays), drawn


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_eager_state_is_donated_with_its_parameters(kind):
    tx, params = _make(kind, "auto", (0.5, 0.9)), _params()
    state = tx.init(params)
    step = jax.jit(lambda p, s: tx.update(p, s, p), donate_argnums=(0, 1))
    expected, _ = jax.jit(lambda p, s: tx.update(p, s, p))(_params(), tx.init(_params()))
    found, _ = step(params, state)
    assert all(x.is_deleted() for x in jax.tree.leaves(state))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_state_of_other_options_or_parameters_is_refused_by_name():
    params = {"w": jnp.ones((16, 16))}
    state = shampoo_jax.scale_by_shampoo(blocks=Blocks(block_size=8)).init(params)
    for options, message in (
        ({"block_size": 4}, "block_size: expected 8 as in the state, found 4"),
        ({"block_size": 8, "round_to": 4}, "round_to: expected 8 as in the state, found 4"),
        ({"block_size": 8, "exponents": paper_exponents}, "exponents: expected those"),
    ):
        tx = shampoo_jax.scale_by_shampoo(**grouped(**options))
        with pytest.raises(ValueError, match=f"^{message}"):
            tx.update(params, state)
    same_rows = {"w": jnp.ones((32, 8))}
    with pytest.raises(ValueError, match=r"^params: expected .* found \[\(32, 8\)\]"):
        shampoo_jax.scale_by_shampoo(blocks=Blocks(block_size=8)).update(same_rows, state)


def test_containers_of_the_same_leaves_may_change():
    tx = shampoo_jax.scale_by_shampoo(blocks=Blocks(block_size=8))
    leaves = [jnp.ones((4, 3)), jnp.ones((5,))]
    state, update = tx.init(leaves), jax.jit(tx.update)
    as_list, _ = update(leaves, state)
    as_dict, _ = update(dict(zip("ab", leaves)), state)
    np.testing.assert_array_equal(as_list[0], as_dict["a"])


def test_averages_may_be_kept_in_half_precision():
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(16, 8)), jnp.float32)}
    options = {"momentum": 0.5, "block_size": 8, "precondition_frequency": 2}
    ends, states = [], []
    for dtype in (None, jnp.bfloat16):
        tx = shampoo_jax.shampoo(1e-2, **grouped(mu_dtype=dtype, **options))
        state, step = tx.init(params), jax.jit(tx.update)
        for _ in range(5):
            updates, state = step(params, state, params)
        ends.append(updates["w"])
        states.append(state[0].pools[0])
    assert states[1].filtered.dtype == states[1].momentum.dtype == jnp.bfloat16
    assert states[1].factors[0].dtype == ends[1].dtype == jnp.float32
    np.testing.assert_allclose(*ends, atol=0.2 * float(jnp.abs(ends[0]).max()))
    assert not np.array_equal(*ends)
