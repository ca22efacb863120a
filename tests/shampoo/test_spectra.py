"""Eigenvalues of padded factors, and the roots that are formed from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import shampoo_jax
from shampoo_jax import Refresh, Root, roots, spectra


def _padded(size, side, rank, seed=0):
    x = np.random.default_rng(seed).normal(size=(size, rank))
    return np.pad(x @ x.T, (0, side - size))


@pytest.mark.parametrize("relative", [True, False])
def test_of_a_padded_matrix(relative, x64):
    a = jnp.asarray(np.stack([_padded(5, 8, 9), _padded(8, 8, 3)]))
    sizes = jnp.array([5, 8])
    rest = {"exponent": 0.5, "eps": 1e-3, "relative_eps": relative}
    bases = jnp.stack([roots.eigh_basis(x, n, jnp.eye(8), **rest).value for x, n in zip(a, sizes)])
    found = spectra.spectrum(a, bases, sizes, eps=1e-3, relative_eps=relative)
    for x, lam, size in zip(a, found, (5, 8)):
        own = np.linalg.eigvalsh(x[:size, :size])
        ridge = 1e-3 * (own.max() if relative else 1)
        np.testing.assert_allclose(lam[:size], own - min(own.min(), 0) + ridge, rtol=1e-9)
        np.testing.assert_array_equal(lam[size:], 1)


def test_an_eigenvalue_of_zero_has_no_inverse():
    found = spectra.inverse_powers(jnp.array([0.0, 4.0]), 0.5)
    np.testing.assert_allclose(found, [0.0, 0.5])


def _end(root, frequency=3, steps=8, **options):
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(9, 6)))}
    tx = shampoo_jax.shampoo(
        0.1, root=root, refresh=Refresh(precondition_frequency=frequency, stagger=False), **options
    )
    state, step = tx.init(params), jax.jit(tx.update)
    for _ in range(steps):
        updates, state = step({"w": jnp.asarray(rng.normal(size=(9, 6)))}, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params["w"], state[0].pools[0]


def test_the_root_is_that_of_the_last_refresh(x64):
    expected, _ = _end(Root())
    found, _ = _end(Root(preconditioner="eigendecomposed"))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_tracked_eigenvalues_are_those_of_the_factors_now(x64):
    """With a refresh at every step nothing is left to track."""
    kept = Root(preconditioner="eigendecomposed", track_eigenvalues=True)
    found, _ = _end(kept, frequency=1, grafting=None)
    expected, _ = _end(Root(), frequency=1, grafting=None)
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    _, pool = _end(kept, frequency=5, steps=7)
    for factor, basis, lam in zip(pool.factors, pool.roots, pool.spectra):
        a = np.asarray(factor[0]) / (1 - 0.95**7)
        size = int((np.diagonal(a) > 0).sum())
        own = np.diagonal(basis[0].T @ a @ basis[0])[:size]
        np.testing.assert_allclose(lam[0, :size], own + 1e-6 * own.max(), rtol=1e-9)
