"""Derivatives through several steps (meta-learning), against central differences in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export

import shampoo_jax
from shampoo_jax import roots
from tests.shampoo.grouped import grouped, long

HIGHER = functools.partial(roots.higher_order_root, abs_epsilon=1e-3, tolerance=1e-13)
OPTIONS = {"block_size": 4, "precondition_frequency": 2, "max_pools": 1, "eps": 1e-3}


def _with(factory, **options):
    return functools.partial(factory, **grouped(**OPTIONS, **options))


OPTIMIZERS = {
    "shampoo": _with(shampoo_jax.shampoo),
    "all at once": _with(shampoo_jax.shampoo, stagger=False),
    "sum, momentum": _with(shampoo_jax.shampoo, b2=1.0, momentum=0.5),
    "newton": _with(
        shampoo_jax.shampoo, solver=functools.partial(roots.newton_root, tolerance=1e-13)
    ),
    "higher order": _with(shampoo_jax.shampoo, solver=HIGHER),
    "soap": _with(shampoo_jax.soap, start_preconditioning_step=2),
    "kl_shampoo": _with(shampoo_jax.kl_shampoo),
    "kl, trace": _with(shampoo_jax.shampoo, factors="kl_sum", trace_scaling=0.5),
    "soap, qr": _with(
        shampoo_jax.soap,
        solver=functools.partial(roots.qr_basis, max_iterations=2),
        start_preconditioning_step=2,  # the factors of one gradient are singular: no derivative
    ),
}


SHORT = ("shampoo", "soap")


def problem():
    """Two layers whose gradients have full rank, one block padded, one split."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape))

    return {"a": draw(3, 3), "b": draw(6, 4)}, draw(20, 6), draw(20, 3)


def after_steps(params, rate, x, y, *, optimizer, steps=4, scan=True):
    """The loss after some steps from `params`; a column of `b` has no gradient."""
    tx = optimizer(rate)

    def loss(params):
        return jnp.mean((jnp.tanh(x @ params["b"])[:, :3] @ params["a"] - y) ** 2)

    def step(carry, _=None):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    carry = (params, tx.init(params))
    if scan:
        carry, _ = jax.lax.scan(step, carry, length=steps)
    else:
        for _ in range(steps):
            carry, _ = step(carry)
    return loss(carry[0])


def central_difference(f, params, rate, direction, h=1e-4):
    """Along a direction of parameters and learning rate, by Richardson's extrapolation."""

    def at(h):
        moved = jax.tree.map(lambda p, d: p + h * d, (params, rate), direction)
        return float(f(*moved))

    def slope(h):
        return (at(h) - at(-h)) / (2 * h)

    return (4 * slope(h / 2) - slope(h)) / 3


@pytest.mark.parametrize("name", [*SHORT, *long(*sorted(set(OPTIMIZERS) - set(SHORT)))])
def test_the_gradient_through_steps_is_that_of_central_differences(x64, name):
    params, x, y = problem()
    f = functools.partial(after_steps, x=x, y=y, optimizer=OPTIMIZERS[name])
    rate = jnp.asarray(0.03)
    by_params, by_rate = jax.jit(jax.grad(f, (0, 1)))(params, rate)
    still = jax.tree.map(jnp.zeros_like, params)
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
    run = jax.jit(f)
    wanted = central_difference(run, params, rate, (direction, jnp.zeros(())))
    found = sum(jnp.sum(by_params[k] * direction[k]) for k in params)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_allclose(
        by_rate, central_difference(run, params, rate, (still, jnp.ones(()))), rtol=1e-5
    )


@pytest.mark.long
@pytest.mark.parametrize("name", ["shampoo", "soap"])
def test_without_jit_the_gradient_is_the_same(x64, name):
    params, x, y = problem()
    f = functools.partial(after_steps, x=x, y=y, optimizer=OPTIMIZERS[name], steps=3)
    compiled = jax.jit(jax.grad(f, (0, 1)))(params, 0.03)
    found = jax.grad(functools.partial(f, scan=False), (0, 1))(params, 0.03)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(compiled)):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["shampoo", *long("soap, qr", "soap", "newton", "kl_shampoo", "kl, trace")]
)
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_gradients_are_finite_where_inputs_are_zero(name, scale):
    """Zero gradients, and such of rank one: factors are zero, or most of their eigenvalues."""
    params, x, y = problem()
    x, y = jnp.float32(scale * x.at[1:].set(0)), jnp.float32(scale * y)
    params = jax.tree.map(jnp.float32, params)
    f = functools.partial(after_steps, x=x, y=y, optimizer=OPTIMIZERS[name])
    loss, found = jax.jit(jax.value_and_grad(f, (0, 1)))(params, jnp.float32(0.03))
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(found))
    assert scale == 0 or jnp.abs(found[1]) > 1e-6 * jnp.abs(loss)


@pytest.mark.parametrize("name", ["shampoo", *long("soap, qr")])
def test_mapped_gradients_are_those_of_separate_models(x64, name):
    params, x, y = problem()
    f = functools.partial(after_steps, x=x, y=y, optimizer=OPTIMIZERS[name], steps=3)
    gradient = jax.jit(jax.grad(f))
    several = jax.tree.map(lambda p: jnp.stack([p, 0.5 * p, 0 * p]), params)
    together = jax.jit(jax.vmap(jax.grad(f), (0, None)))(several, 0.03)
    for k in range(3):
        alone = gradient(jax.tree.map(lambda p, k=k: p[k], several), 0.03)
        for name in alone:
            np.testing.assert_allclose(together[name][k], alone[name], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("platform", ["cuda", *long("tpu")])
@pytest.mark.parametrize("name", ["shampoo", "soap, qr"])
def test_mapped_gradients_lower_for_accelerators(name, platform):
    """There the refresh is one batch, whose derivative is another."""
    params, x, y = jax.tree.map(jnp.float32, problem())
    f = functools.partial(after_steps, x=x, y=y, optimizer=OPTIMIZERS[name])
    several = jax.tree.map(lambda p: jnp.stack([p, p]), params)
    gradient = jax.jit(jax.vmap(jax.grad(f), (0, None)))
    text = export.export(gradient, platforms=[platform])(several, 0.03).mlir_module()
    assert "stablehlo.dot_general" in text and "lapack" not in text
