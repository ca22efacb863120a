"""SOAP against the paper's loop, and its steps at the start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import shampoo_jax
from shampoo_jax import Refresh
from shampoo_jax.roots import Refreshed
from tests.shampoo.grouped import grouped

B1, B2, EPS = 0.9, 0.95, 1e-6


def _gradients(shape, steps):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for _ in range(steps)]


def _soap_of_the_paper(gradients, frequency):
    """arXiv 2409.11321, algorithm 3: project with the old bases, step, then refresh them.

    The second moment goes to the new bases as if it were diagonal: where their columns only change
    places, as the paper's code has it. The first step goes by the identity; the paper leaves it
    out.
    """
    rows, columns = gradients[0].shape
    left, right = np.zeros((rows, rows)), np.zeros((columns, columns))
    q_left, q_right = np.eye(rows), np.eye(columns)
    mean, second, directions = 0.0, 0.0, []
    for t, g in enumerate(gradients, 1):
        mean = B1 * mean + (1 - B1) * g
        second = B2 * second + (1 - B2) * (q_left.T @ g @ q_right) ** 2
        rotated = q_left.T @ (mean / (1 - B1**t)) @ q_right
        scaled = rotated / (np.sqrt(second / (1 - B2**t)) + EPS)
        directions.append(q_left @ scaled @ q_right.T)
        left = B2 * left + (1 - B2) * g @ g.T
        right = B2 * right + (1 - B2) * g.T @ g
        if t == 1 or t % frequency == 0:
            old = q_left, q_right
            q_left, q_right = np.linalg.eigh(left)[1], np.linalg.eigh(right)[1]
            second = ((old[0].T @ q_left) ** 2).T @ second @ (old[1].T @ q_right) ** 2
    return directions


@pytest.mark.parametrize("frequency", [1, 3])
def test_soap_is_the_loop_of_the_paper(frequency, x64):
    gradients = _gradients((4, 4), 7)
    options = {"precondition_frequency": frequency, "target_dimensionality": None}
    tx = shampoo_jax.soap(1.0, b1=B1, b2=B2, eps=EPS, **grouped(stagger=False, **options))
    params = jnp.zeros((4, 4))
    state, step = tx.init(params), jax.jit(tx.update)
    for g, expected in zip(gradients, _soap_of_the_paper(gradients, frequency), strict=True):
        updates, state = step(jnp.asarray(g), state, params)
        np.testing.assert_allclose(updates, -expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("frequency", [1, 2])
@pytest.mark.parametrize("stagger", [True, False])
def test_no_step_jumps(frequency, stagger):
    """The root mean square of a step is at most about the learning rate, as Adam's."""
    params = jnp.zeros((32, 16))
    tx = shampoo_jax.soap(1.0, refresh=Refresh(precondition_frequency=frequency, stagger=stagger))
    state, step = tx.init(params), jax.jit(tx.update)
    for g in _gradients((32, 16), 10):
        updates, state = step(jnp.asarray(g, jnp.float32), state, params)
        assert jnp.sqrt(jnp.mean(jnp.square(updates))) <= 1.2


def test_a_basis_whose_columns_change_places_changes_nothing(x64):
    """As QR sorts them anew: the second moment goes along."""

    def turning(a, size, previous, **options):
        del size, options
        return Refreshed(previous[:, ::-1], jnp.zeros(()), jnp.ones(()))

    def staying(a, size, previous, **options):
        del size, options
        return Refreshed(previous, jnp.zeros(()), jnp.ones(()))

    ends = []
    for solver in (turning, staying):
        options = grouped(solver=solver, precondition_frequency=2, round_to=1)
        tx = shampoo_jax.soap(1.0, **options)
        params = jnp.zeros((6, 4))
        state, step = tx.init(params), jax.jit(tx.update)
        for g in _gradients((6, 4), 9):
            updates, state = step(jnp.asarray(g), state, params)
        ends.append(updates)
    np.testing.assert_allclose(*ends, rtol=1e-12)
