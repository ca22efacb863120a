"""Eigendecomposition and QR: mapped one by one on CPU, and their derivatives."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from shampoo_jax import roots
from shampoo_jax.roots import decompositions

D = 4
REAL = jnp.ones(D, bool)
SOLVERS = {
    "eigh_root": (roots.eigh_root, r"lapack_[sd]syevd_ffi"),
    "qr_basis": (roots.qr_basis, r"lapack_[sd]geqrf_ffi"),
}


def matrices(count):
    g = jax.random.normal(jax.random.key(0), (count, D, D))
    return g @ g.mT


def mapped(solver):
    def refresh(a, previous):
        return solver(a, D, previous, exponent=0.25, eps=1e-3, relative_eps=False)

    return refresh, jax.jit(jax.vmap(refresh))


@pytest.mark.parametrize("name", SOLVERS)
def test_mapped_on_cpu_the_calls_stay_single(name):
    solver, call = SOLVERS[name]
    one, several = mapped(solver)
    a, eye = matrices(6), jnp.broadcast_to(jnp.eye(D), (6, D, D))
    lines = [x for x in several.lower(a, eye).as_text().splitlines() if re.search(rf"@{call}\b", x)]
    assert lines and all(f"tensor<{D}x{D}x" in x and "tensor<6x" not in x for x in lines)
    alone = jnp.stack([jax.jit(one)(x, e).value for x, e in zip(a, eye)])
    np.testing.assert_allclose(several(a, eye).value, alone, atol=1e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("name", SOLVERS)
def test_elsewhere_they_are_batched(name, platform):
    _, several = mapped(SOLVERS[name][0])
    text = export.export(several, platforms=[platform])(matrices(6), matrices(6)).mlir_module()
    assert "tensor<6x4x4xf32>" in text and "lapack" not in text


def difference(f, x, direction, h=1e-4):
    def slope(h):
        return (f(x + h * direction) - f(x - h * direction)) / (2 * h)

    return (4 * slope(h / 2) - slope(h)) / 3


def aligned(q):
    """A function of the columns that their signs do not enter."""
    weights = jnp.asarray(np.random.default_rng(3).normal(size=(D, D)))
    return jnp.sum(weights * q * jnp.sign(q[0])[None, :])


@pytest.mark.parametrize("call", ["eigh", "qr"])
@pytest.mark.parametrize("order", [1, 2])
def test_derivatives_are_those_of_central_differences(x64, call, order):
    rng = np.random.default_rng(0)
    a, direction = (jnp.asarray(rng.normal(size=(D, D))) for _ in range(2))

    def f(a):
        if call == "qr":
            q, other = decompositions.qr(a)
            return aligned(q) + jnp.sum(jnp.abs(other) ** 3)
        q, other = decompositions.eigh(a + a.T, REAL)
        return aligned(q) + jnp.sum(other**3)

    def slope(a):
        return jnp.sum(jax.grad(f)(a) * direction)

    low, high = (
        (f, slope) if order == 1 else (slope, lambda a: jnp.sum(jax.grad(slope)(a) * direction))
    )
    np.testing.assert_allclose(high(a), difference(jax.jit(low), a, direction), rtol=1e-5)


def test_eigenvectors_of_equal_eigenvalues_do_not_turn_into_one_another(x64):
    a = jnp.diag(jnp.array([1.0, 1.0, 2.0, 2.0]))
    change = jnp.asarray(np.random.default_rng(0).normal(size=(D, D)))
    (q, _), (turn, _) = jax.jvp(lambda a: decompositions.eigh(a, REAL), (a,), (change + change.T,))
    inside = np.asarray(q.T @ turn)
    np.testing.assert_array_equal(inside[:2, :2], 0)
    np.testing.assert_array_equal(inside[2:, 2:], 0)
    np.testing.assert_allclose(inside[:2, 2:], (q.T @ (change + change.T) @ q)[:2, 2:], rtol=1e-12)


def test_a_column_that_depends_on_others_has_no_derivative(x64):
    a = jnp.asarray(np.random.default_rng(0).normal(size=(D, D))).at[:, 2].set(0)
    (q, _), (turn, _) = jax.jvp(decompositions.qr, (a,), (jnp.ones((D, D)),))
    assert jnp.isfinite(turn).all() and jnp.abs(turn).max() < 100
    np.testing.assert_allclose(q.T @ turn, -(q.T @ turn).T, atol=1e-12)
