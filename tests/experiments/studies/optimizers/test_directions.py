"""A step of one optimizer, turned to where another one goes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.harness.errors import InputError
from experiments.studies.optimizers.directions import LENGTHS, factory_of, kernels
from experiments.studies.optimizers.factories import FACTORIES
from experiments.studies.optimizers.options import Digits
from experiments.studies.optimizers.spaces import Point

POINT = Point(rate=0.02, weight_decay=0.1, b1=0.9, b2=0.95, other_rate=0.004)
STEPS = 12  # Shampoo refreshes its roots in step 10


@pytest.fixture(scope="module")
def params():
    draw = np.random.default_rng(0)
    shapes = {"stem": (3, 3, 1, 4), "block": (3, 3, 4, 8), "head": (8, 3)}
    drawn = {name: {"kernel": jnp.asarray(draw.normal(size=s))} for name, s in shapes.items()}
    drawn["block"]["bias"] = jnp.asarray(draw.normal(size=8))
    return drawn


def steps_of(factory, params, *, steps=STEPS):
    """Updates of each step, by gradients that do not depend on the parameters."""
    tx = factory(*POINT)

    @jax.jit
    def step(gradients, state, params):
        updates, state = tx.update(gradients, state, params)
        return updates, state, optax.apply_updates(params, updates)

    state, found = tx.init(params), []
    for n in range(steps):
        keys = optax.tree.split_key_like(jax.random.key(n), params)
        gradients = jax.tree.map(lambda k, p: jax.random.normal(k, p.shape, p.dtype), keys, params)
        updates, state, params = step(gradients, state, params)
        found.append(updates)
    return found


@pytest.mark.parametrize("name", LENGTHS)
def test_an_optimizer_in_its_own_direction_is_itself(name, params):
    own = steps_of(FACTORIES[name], params)
    found = steps_of(factory_of(name, name, point=POINT), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7), found, own)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("directions", ["sgd", "soap"])
def test_lengths_are_of_one_and_directions_of_the_other(lengths, directions, params):
    params = jax.tree.map(jnp.zeros_like, params)  # nothing decays in the first step
    towards = POINT._replace(b1=0.8, b2=0.97, rate=7.0)
    (found,) = steps_of(factory_of(lengths, directions, point=towards), params, steps=1)
    (own,) = steps_of(FACTORIES[lengths], params, steps=1)

    def at_its_point(rate, weight_decay, b1, b2, other_rate):
        return FACTORIES[directions](rate, weight_decay, towards.b1, towards.b2, other_rate)

    (other,) = steps_of(at_its_point, params, steps=1)
    turned, length, towards = (each["block"]["kernel"] for each in (found, own, other))
    np.testing.assert_allclose(jnp.linalg.norm(turned), jnp.linalg.norm(length), rtol=1e-5)
    unit = towards / jnp.linalg.norm(towards)
    np.testing.assert_allclose(turned / jnp.linalg.norm(turned), unit, rtol=1e-4, atol=1e-6)
    for name, leaf in (("stem", "kernel"), ("head", "kernel"), ("block", "bias")):
        np.testing.assert_allclose(found[name][leaf], own[name][leaf], rtol=1e-5)


def test_only_kernels_between_the_first_and_the_last_layer_are_turned(params):
    turned = kernels(params)
    assert turned == {
        "stem": {"kernel": False},
        "block": {"kernel": True, "bias": False},
        "head": {"kernel": False},
    }


def test_a_run_has_one_question():
    with pytest.raises(InputError, match="--directions: expected no --axes beside it, found both"):
        Digits(axes=True, directions=True)
    expected = "--optimizers: expected muon and shampoo, found adamw"
    with pytest.raises(InputError, match=expected):
        Digits(directions=True, optimizers=("adamw",))
