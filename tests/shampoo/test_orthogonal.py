"""Semi-orthogonal matrices, and spectral descent as a grafting method."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import shampoo_jax
from shampoo_jax import Blocks, grafting, orthogonal

SHAPES = [(3, 6, 4), (3, 4, 6), (2, 5, 5)]
CUBIC = functools.partial(orthogonal.newton_schulz, coefficients=(1.5, -0.5, 0.0), iterations=30)


def _draw(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def _polar(m):
    u, _, vt = np.linalg.svd(m, full_matrices=False)
    return u @ vt


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", [CUBIC, orthogonal.polar], ids=["newton_schulz", "polar"])
def test_singular_values_become_one(method, shape, x64):
    m = _draw(shape)
    np.testing.assert_allclose(method(m), _polar(m), rtol=1e-6, atol=1e-8)


def test_the_coefficients_of_muon_bring_them_near_one():
    lam = jnp.linalg.svd(orthogonal.newton_schulz(_draw((8, 12, 6))), compute_uv=False)
    assert float(lam.min()) > 0.6
    assert float(lam.max()) < 1.25


@pytest.mark.parametrize("method", [CUBIC, orthogonal.polar], ids=["newton_schulz", "polar"])
def test_zero_rows_and_columns_stay_zero_and_change_nothing(method, x64):
    m = _draw((2, 5, 3))
    padded = method(jnp.pad(m, ((0, 0), (0, 3), (0, 5))))
    np.testing.assert_allclose(padded[:, :5, :3], method(m), atol=1e-12)
    assert not np.any(padded[:, 5:]) and not np.any(padded[:, :, 3:])
    assert not np.any(method(jnp.zeros((1, 4, 3))))


def test_the_nuclear_norm_follows_the_gradient(x64):
    m = _draw((3, 6, 4))
    found = orthogonal.polar(m, nuclear_norm=True)
    norms = jnp.linalg.svd(m, compute_uv=False).sum(1)
    expected = norms[:, None, None] * _polar(m)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(orthogonal.polar(3 * m, nuclear_norm=True), 3 * found, rtol=1e-9)


@pytest.mark.parametrize("norm", [None, grafting.sgd()], ids=["own", "sgd"])
def test_alone_it_is_the_direction_of_every_block(norm, x64):
    tx = shampoo_jax.shampoo(
        1.0,
        b1=0.0,
        grafting=grafting.spectral(orthogonal.polar, norm=norm),
        blocks=Blocks(block_size=8, exponents=lambda shape: (0,) * len(shape)),
    )
    g = {"w": _draw((12, 7)), "b": _draw((5,))}
    state = tx.init(g)
    for _ in range(2):
        updates, state = jax.jit(tx.update)(g, state, g)
    expected = {
        "w": [_polar(g["w"][:8]), _polar(g["w"][8:])],
        "b": [g["b"] / optax.tree.norm(g["b"])],
    }
    for name, blocks in expected.items():
        parts = [g[name][:8], g[name][8:]][: len(blocks)]
        if norm is not None:
            pairs = zip(blocks, parts)
            blocks = [p * np.linalg.norm(x) / np.linalg.norm(p) for p, x in pairs]
        np.testing.assert_allclose(-updates[name], np.concatenate(blocks), rtol=1e-7, atol=1e-9)


def test_shampoo_takes_its_norm():
    tx = shampoo_jax.shampoo(
        1.0, grafting=grafting.spectral(orthogonal.polar), blocks=Blocks(block_size=8)
    )
    g = {"w": _draw((8, 6))}
    state = tx.init(g)
    for _ in range(12):
        updates, state = jax.jit(tx.update)(g, state, g)
    np.testing.assert_allclose(optax.tree.norm(updates), np.sqrt(6), rtol=1e-4)
