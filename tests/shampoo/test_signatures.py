"""One set of options, spelt out in every factory, and what optax.inject_hyperparams makes of it."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import shampoo_jax
from shampoo_jax import Blocks, Refresh, Root, roots
from tests.shampoo.grouped import grouped

FACTORIES = {
    "shampoo": functools.partial(shampoo_jax.shampoo, 1e-2),
    "soap": functools.partial(shampoo_jax.soap, 1e-2),
    "kl_shampoo": functools.partial(shampoo_jax.kl_shampoo, 1e-2),
    "kl_soap": functools.partial(shampoo_jax.kl_soap, 1e-2),
    "scale_by_shampoo": shampoo_jax.scale_by_shampoo,
}
COMPLETE = [name for name in FACTORIES if name != "scale_by_shampoo"]
PARAMS = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), "b": jnp.ones((5,))}


def _options(factory):
    return inspect.signature(factory).parameters


@pytest.mark.parametrize("name", COMPLETE)
def test_the_options_are_those_of_scale_by_shampoo(name):
    own, base = _options(getattr(shampoo_jax, name)), _options(shampoo_jax.scale_by_shampoo)
    added = {"learning_rate", "decay_type", "peak_learning_rate"}
    changed = {"b1", "b2", "eps"} if name.endswith("soap") else set()
    assert set(own) == set(base) | added
    assert len(own) <= 16
    for option in set(own) - added - changed:
        assert own[option] == base[option]


@pytest.mark.parametrize("name", COMPLETE)
def test_every_option_arrives(name, monkeypatch):
    """No option is dropped between the alias and scale_by_shampoo."""
    module = inspect.getmodule(inspect.unwrap(shampoo_jax.shampoo))
    given = {}
    monkeypatch.setattr(
        module, "scale_by_shampoo", lambda **options: given.update(options) or optax.identity()
    )
    own = _options(getattr(shampoo_jax, name))
    numbers = {"weight_decay": 0.25, "peak_learning_rate": 1.0}
    numbers["root"] = Root(preconditioner="soap", factors="kl")
    numbers["blocks"] = Blocks(exponents=lambda shape: None)
    skipped = {"learning_rate", "decay_type"}
    marks = {k: numbers.get(k, object()) for k in own if k not in skipped}
    getattr(shampoo_jax, name)(1e-2, **marks)
    assert set(given) == set(_options(shampoo_jax.scale_by_shampoo))
    for option in set(marks) - {"peak_learning_rate"}:
        assert given[option] is marks[option], option


@pytest.mark.parametrize("name", FACTORIES)
def test_a_misspelt_option_is_refused(name):
    with pytest.raises(TypeError, match="precondition_frequenzy"):
        FACTORIES[name](precondition_frequenzy=5)


@pytest.mark.parametrize("name", FACTORIES)
def test_injected_without_static_args(name):
    factory = getattr(shampoo_jax, name)
    rate = {"learning_rate": 1e-2} if "learning_rate" in _options(factory) else {}
    fixed = {"blocks": Blocks(block_size=2, exponents=lambda shape: (0.3,) * len(shape))}
    fixed |= {"refresh": Refresh(precondition_frequency=2), "momentum": 0.5}
    fixed |= {"mask": lambda p: {k: k != "b" for k in p}}
    tx = optax.inject_hyperparams(factory)(**rate, **fixed)
    plain = factory(**rate, **fixed)
    state, expected = jax.jit(tx.init)(PARAMS), jax.jit(plain.init)(PARAMS)
    numbers = {"b1", "b2", "eps", "momentum", "weight_decay"}
    assert set(state.hyperparams) == numbers | set(rate)
    for _ in range(3):
        updates, state = jax.jit(tx.update)(PARAMS, state, PARAMS)
        wanted, expected = jax.jit(plain.update)(PARAMS, expected, PARAMS)
    np.testing.assert_allclose(updates["w"], wanted["w"], rtol=2e-3)


def test_injected_numbers_act_and_schedules_are_followed():
    rates = optax.linear_schedule(1.0, 0.0, 2)
    tx = optax.inject_hyperparams(shampoo_jax.shampoo)(rates, root=Root(solver=roots.newton_root))
    state, norms = tx.init(PARAMS), []
    for _ in range(3):
        updates, state = jax.jit(tx.update)(PARAMS, state, PARAMS)
        norms.append(float(optax.tree.norm(updates)))
    assert norms[0] > 1.5 * norms[1] > norms[2] == 0
    tx = optax.inject_hyperparams(shampoo_jax.shampoo)(learning_rate=1e-2)
    state = jax.jit(tx.init)(PARAMS)
    update = jax.jit(tx.update)
    once, _ = update(PARAMS, state, PARAMS)
    state.hyperparams["learning_rate"] = jnp.asarray(2e-2)
    twice, _ = update(PARAMS, state, PARAMS)
    np.testing.assert_allclose(twice["w"], 2 * once["w"], rtol=1e-6)


def test_momentum_that_is_off_takes_no_buffer_when_injected():
    tx = optax.inject_hyperparams(shampoo_jax.shampoo)(learning_rate=1e-2)
    assert tx.init(PARAMS).inner_state[0].pools[0].momentum is None


def test_any_integer_counts():
    counts = {"precondition_frequency": 2, "statistics_frequency": 2, "block_size": 2}
    counts |= {"start_preconditioning_step": 3, "max_pools": 3, "round_to": 4}

    def first_update(make):
        own = {name: make(count) for name, count in counts.items()}
        tx = shampoo_jax.shampoo(1e-2, **grouped(**own))
        state = jax.jit(tx.init)(PARAMS)
        return jax.jit(tx.update)(PARAMS, state, PARAMS)

    expected, structure = first_update(int)
    for make in (np.int64, np.int32, np.array, jnp.int32):
        found, state = first_update(make)
        assert jax.tree.structure(state) == jax.tree.structure(structure)
        np.testing.assert_array_equal(found["w"], expected["w"])
