"""Derivatives of roots: divided differences of lambda^-e, finite where eigenvalues are equal."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shampoo_jax import roots

D, PAD = 5, 2
NEWTON = {"tolerance": 1e-13}
HIGHER = {"abs_epsilon": 1e-2, "order": 3, "tolerance": 1e-13}
ROOTS = {
    "eigh": roots.eigh_root,
    "pseudo_inverse": functools.partial(roots.pseudo_inverse_root, rank_rtol=1e-6),
    "newton": functools.partial(roots.newton_root, **NEWTON),
    "higher_order": functools.partial(roots.higher_order_root, **HIGHER),
}
SPECTRA = {
    "distinct": [0.1, 0.5, 1.0, 2.0, 4.0],
    "equal": [1.0, 1.0, 1.0, 2.0, 2.0],
    "all equal": [1.0] * 5,
    "zero": [0.0, 0.0, 0.0, 1.0, 3.0],
    "nearly equal": [1.0, 1.0 + 1e-9, 1.0 + 1e-6, 2.0, 2.0 + 1e-12],
}


def gradient_with(spectrum):
    """G `[D, D]` whose G G^T has these eigenvalues; a step along G M keeps the rank."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(D, D)))[0] for _ in range(2))
    return jnp.asarray(u @ np.diag(np.sqrt(spectrum)) @ v.T)


def outcome(g, root, relative_eps=False, exponent=0.25):
    """A number that all entries of the root of G G^T enter, in a padded matrix."""
    a = jnp.pad(g @ g.T, ((0, PAD), (0, PAD)))
    weights = jnp.asarray(np.random.default_rng(1).normal(size=a.shape))
    found = root(a, D, a, exponent=exponent, eps=1e-2, relative_eps=relative_eps)
    return jnp.sum(weights * found.value)


def central_difference(f, x, direction, h=1e-4):
    """By Richardson's extrapolation: error O(h^4)."""

    def slope(h):
        return (f(x + h * direction) - f(x - h * direction)) / (2 * h)

    return (4 * slope(h / 2) - slope(h)) / 3


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("name", ROOTS)
def test_the_derivative_is_that_of_central_differences(x64, name, spectrum):
    g = gradient_with(SPECTRA[spectrum])
    turn = jnp.asarray(np.random.default_rng(2).normal(size=(D, D)))
    direction = turn @ g  # from the left: the rank stays, as pseudo-inverses need it
    f = jax.jit(functools.partial(outcome, root=ROOTS[name]))
    wanted = central_difference(f, g, direction)
    reverse = jnp.sum(jax.jit(jax.grad(f))(g) * direction)
    forward = jax.jit(lambda g, d: jax.jvp(f, (g,), (d,))[1])(g, direction)
    np.testing.assert_allclose(reverse, wanted, rtol=1e-6)
    np.testing.assert_allclose(forward, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", ["eigh", "newton"])
def test_a_relative_ridge_moves_with_the_matrix(x64, name):
    g = gradient_with(SPECTRA["zero"])
    direction = jnp.asarray(np.random.default_rng(2).normal(size=(D, D)))
    f = functools.partial(outcome, root=ROOTS[name], relative_eps=True)
    wanted = central_difference(f, g, direction)
    np.testing.assert_allclose(jnp.sum(jax.grad(f)(g) * direction), wanted, rtol=1e-6)


@pytest.mark.parametrize("name", ROOTS)
def test_mapped_gradients_are_those_one_by_one(x64, name):
    several = jnp.stack([gradient_with(spectrum) for spectrum in SPECTRA.values()])
    gradient = jax.grad(functools.partial(outcome, root=ROOTS[name]))
    alone = jnp.stack([gradient(g) for g in several])
    assert jnp.isfinite(alone).all()
    np.testing.assert_allclose(jax.jit(jax.vmap(gradient))(several), alone, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ROOTS)
def test_second_derivatives(x64, name):
    g = gradient_with(SPECTRA["distinct"])
    direction = jnp.asarray(np.random.default_rng(2).normal(size=(D, D)))
    f = functools.partial(outcome, root=ROOTS[name])
    slope = jax.jit(lambda g: jnp.sum(jax.grad(f)(g) * direction))
    wanted = central_difference(slope, g, direction)
    np.testing.assert_allclose(jnp.sum(jax.grad(slope)(g) * direction), wanted, rtol=1e-5)
