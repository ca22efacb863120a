"""Trees as users have them: masks that are prefixes, modules with functions, frozen arrays."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import shampoo_jax
from shampoo_jax import Blocks, Refresh
from tests.shampoo.grouped import grouped

OPTIONS = {"block_size": 8, "precondition_frequency": 2}


def _params():
    rng = np.random.default_rng(0)
    return {
        "dense": {"w": jnp.asarray(rng.normal(size=(4, 3))), "b": jnp.asarray(rng.normal(size=3))},
        "norm": {"scale": jnp.asarray(rng.normal(size=(3,)))},
    }


MASKS = {
    "true": True,
    "false": False,
    "prefix": {"dense": True, "norm": False},
    "whole": {"dense": {"w": True, "b": False}, "norm": {"scale": False}},
    "function": lambda p: jax.tree.map(lambda x: x.ndim > 1, p),
    "function of a prefix": lambda p: {"dense": True, "norm": False},
}


def first_update(tx, params):
    return jax.jit(lambda p: tx.update(p, tx.init(p), p)[0])(params)


@pytest.mark.parametrize("momentum", [0.5, pytest.param(0.0, marks=pytest.mark.long)])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_decay_mask_is_what_adamw_takes(mask, momentum):
    """The decay of one step, read off by taking the step without it away."""
    params = _params()
    found, expected = [], []
    for decay in (0.5, 0.0):
        tx = shampoo_jax.shampoo(
            1.0, weight_decay=decay, mask=mask, momentum=momentum, **grouped(**OPTIONS)
        )
        found.append(first_update(tx, params))
        tx = optax.adamw(1.0, weight_decay=decay, mask=mask)
        expected.append(first_update(tx, params))
    difference = [jax.tree.map(jnp.subtract, *pair) for pair in (found, expected)]
    for a, b in zip(*map(jax.tree.leaves, difference), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_module_with_functions_integers_and_frozen_arrays(momentum):
    """The state is made of a part of the module, gradients are of that part, parameters whole."""
    part = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), "act": None, "n": None, "fixed": None}
    module = {**part, "act": jnp.tanh, "n": jnp.int32(3), "fixed": jnp.ones((5,))}
    mask = {"w": True, "act": False, "n": False, "fixed": False}
    tx = shampoo_jax.shampoo(
        0.1, weight_decay=0.1, momentum=momentum, mask=mask, **grouped(**OPTIONS)
    )
    alone = shampoo_jax.shampoo(0.1, weight_decay=0.1, momentum=momentum, **grouped(**OPTIONS))
    state, expected = jax.jit(tx.init)(part), jax.jit(alone.init)({"w": part["w"]})
    step = jax.jit(lambda g, s: tx.update(g, s, module))
    alone_step = jax.jit(lambda g, s: alone.update(g, s, {"w": part["w"]}))
    for _ in range(3):
        updates, state = step(part, state)
        wanted, expected = alone_step({"w": part["w"]}, expected)
        assert jax.tree.structure(updates) == jax.tree.structure(part)
        np.testing.assert_array_equal(updates["w"], wanted["w"])


def test_a_missing_gradient_of_a_parameter_is_not_a_frozen_array():
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones((5,))}
    tx = shampoo_jax.shampoo(0.1, **grouped(**OPTIONS))
    update = jax.jit(lambda p: tx.update({"w": p["w"], "b": None}, tx.init(p), p)[0])
    updates = update(params)
    np.testing.assert_array_equal(updates["b"], jnp.zeros((5,)))


def test_a_function_is_refused_where_the_state_is_made():
    with pytest.raises(ValueError, match=r"^params\['act'\]: expected a real floating-point array"):
        shampoo_jax.shampoo(0.1).init({"w": jnp.ones((4, 3)), "act": jnp.tanh})


DESCENTS = {
    "adam": optax.adam(1e-3),
    "sgd": optax.sgd(0.1),
    "warmed up": optax.adam(optax.linear_schedule(0.0, 1e-3, 100)),
}


@pytest.mark.parametrize("method", DESCENTS.values(), ids=DESCENTS)
def test_a_descent_does_not_graft(method):
    with pytest.raises(ValueError, match=r"^grafting: expected a direction along the gradient"):
        shampoo_jax.shampoo(1e-2, grafting=method)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jitted"])
def test_grafting_methods_may_be_made_while_tracing(wrap):
    params = {"w": jnp.ones((4, 3))}

    @wrap
    def first_update(decay):
        tx = shampoo_jax.shampoo(1e-2, grafting=optax.trace(decay), blocks=Blocks(block_size=8))
        return tx.update(params, tx.init(params), params)[0]["w"]

    assert (first_update(jnp.asarray(0.5)) < 0).all()


def test_refresh_phases_follow_the_steps():
    """With stagger a block whose position is p is refreshed at the steps t = p modulo k."""
    frequency, steps = 3, 8
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(40, 8)))}
    tx = shampoo_jax.scale_by_shampoo(
        blocks=Blocks(block_size=8), refresh=Refresh(precondition_frequency=frequency)
    )
    state, step = tx.init(params), jax.jit(tx.update)
    for t in range(1, steps + 1):
        _, state = step(params, state)
        (pool,) = state.pools
        due = [s for s in range(frequency, t + 1)]
        expected = [
            max((s for s in due if s % frequency == p % frequency), default=0) for p in range(5)
        ]
        np.testing.assert_array_equal(pool.last_refresh, expected)


def test_a_gradient_of_another_shape_is_refused_by_name():
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones((5,))}
    tx = shampoo_jax.shampoo(0.1)
    state = jax.jit(tx.init)(params)
    for shape in ((3, 4), (12,), ()):
        wrong = {**params, "w": jnp.ones(shape)}
        message = f"updates['w']: expected shape (4, 3) as its parameter, found {shape}"
        with pytest.raises(ValueError, match=re.escape(message)):
            tx.update(wrong, state, params)


@pytest.mark.parametrize("make", [shampoo_jax.shampoo, shampoo_jax.soap, optax.adamw])
def test_python_numbers_are_parameters(make):
    params = {"scale": 2.0, "w": jnp.ones((4, 3))}
    tx = make(0.1, weight_decay=0.1)
    state = tx.init(params)
    loss = lambda p: (p["scale"] * jnp.sum(p["w"])) ** 2  # noqa: E731
    before = loss(params)
    update = jax.jit(tx.update)
    for _ in range(3):
        updates, state = update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    assert loss(params) < before
