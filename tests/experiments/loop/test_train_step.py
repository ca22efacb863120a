"""A step whose loss or gradient is not finite changes nothing but the count."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import shampoo_jax
from experiments.harness.devices import make_mesh
from experiments.loop.parameter_average import exponential
from experiments.loop.sharding import fsdp, shard_batch
from experiments.loop.train_step import (
    CompiledStep,
    compile_step,
    init_state,
    make_step,
    specs_of,
    state_layout,
)
from tests.experiments import tiny_problem

TX = optax.adamw(1e-2)


def test_shampoo_is_told_how_parameters_are_sharded():
    """One collective brings all gradients together, not one per leaf."""
    mesh, tx = make_mesh(jax.devices()[:4]), shampoo_jax.shampoo(1e-2)
    rules = [(".", fsdp("data", min_size=0))]
    batch = shard_batch(next(iter(tiny_problem.batches(0))), mesh)
    gathers = {}
    with jax.set_mesh(mesh):
        layout = state_layout(tiny_problem.init_params, tx, mesh=mesh, rules=rules)
        specs = specs_of(layout, least=0)
        assert sum(any(spec) for spec in jax.tree.leaves(specs, is_leaf=is_spec)) > 2
        for told in (None, specs):
            step = make_step(tiny_problem.loss, tx, seed=3, param_specs=told)
            text = compile_step(step, layout, batch=batch, mesh=mesh).as_text()
            gathers[told is None] = text.count(" all-gather(")
        assert gathers[False] < gathers[True]
        assert specs_of(layout) is None  # so little is left to the compiler
        assert specs_of(state_layout(tiny_problem.init_params, tx, mesh=mesh), least=0) is None


def is_spec(node):
    return isinstance(node, jax.P)


def gradient_only(params, batch, key):
    """A loss that is finite where its gradient is not: the root of 0."""
    loss, metrics = tiny_problem.loss(params, batch, key)
    return loss + jnp.sqrt(jnp.sum(params["hidden"]["bias"]) * batch["x"][0, 0]), metrics


def taken(bad, *, loss=tiny_problem.loss, most_skipped=None, devices=1, average=None):
    """States after each step; batches named in `bad` have one value of their own."""
    mesh = make_mesh(jax.devices()[:devices])
    averaged = average is not None
    layout = state_layout(tiny_problem.init_params, TX, mesh=mesh, averaged=averaged)
    with jax.set_mesh(mesh):
        state = init_state(tiny_problem.init_params, TX, layout=layout, seed=3)
        program = make_step(loss, TX, seed=3, most_skipped=most_skipped, average=average)
        step = CompiledStep(program, mesh=mesh)
        states = [jax.device_get(state)]
        for i, batch in enumerate(tiny_problem.batches(0)):
            if i in bad:
                batch["x"][0, 0] = bad[i]
            batch = shard_batch(batch, mesh)
            if not step.knows(batch):
                step.learn(state, batch)
            state, _ = step(state, batch)
            states.append(jax.device_get(state))
    return states


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_step_that_is_not_finite_leaves_everything_but_the_counts(value, devices):
    states = taken({2: value, 3: value, 6: value}, devices=devices)
    for before, after in ((2, 3), (3, 4), (6, 7)):
        for name in ("params", "opt_state"):
            chex.assert_trees_all_equal(getattr(states[before], name), getattr(states[after], name))
    assert [state.skipped.tolist() for state in states] == [
        [0, 0],
        [0, 0],
        [0, 0],
        [1, 1],
        [2, 2],
        [2, 0],
        [2, 0],
        [3, 1],
        [3, 0],
    ]
    assert [int(state.step) for state in states] == list(range(9))
    assert np.isfinite(jax.flatten_util.ravel_pytree(states[-1].params)[0]).all()
    kernels = [state.params["out"]["kernel"] for state in states]
    assert all((kernels[i] != kernels[i + 1]).any() for i in (0, 1, 4, 5, 7))


def test_a_finite_loss_with_a_gradient_that_is_not_is_skipped():
    """At the start the bias is 0, and the root has no derivative there."""
    states = taken({}, loss=gradient_only)
    chex.assert_trees_all_equal(states[0].params, states[-1].params)
    assert states[-1].skipped.tolist() == [8, 8]


def test_after_so_many_in_a_row_all_further_steps_are_skipped():
    states = taken({1: np.nan, 2: np.nan, 4: np.nan, 5: np.nan, 6: np.nan}, most_skipped=3)
    assert states[4].skipped.tolist() == [2, 0]
    assert states[-1].skipped.tolist() == [6, 4]  # the last batch is a good one
    chex.assert_trees_all_equal(states[4].params, states[-1].params)


def test_an_average_weighs_the_parameters_of_steps_that_were_taken():
    """By hand: values after steps 1 to 7, decay .5, weights that are divided by what they sum to.

    The third batch is skipped: it has no value, and no number either.
    """
    states = taken({2: np.nan}, average=exponential(0.5), devices=2)
    chex.assert_trees_all_equal(states[0].average, states[0].params)
    chex.assert_trees_all_equal(states[2].average, states[3].average)
    values = [states[i].params["out"]["kernel"] for i in (1, 2, 4, 5, 6, 7, 8)]
    weights = 0.5 ** np.arange(6, -1, -1)
    expected = np.einsum("i,ijk->jk", weights / weights.sum(), np.stack(values))
    np.testing.assert_allclose(states[-1].average["out"]["kernel"], expected, rtol=2e-6)
    assert states[-1].served is states[-1].average
    assert states[-1]._replace(average=None).served is states[-1].params
