"""Every solver against numpy in float64, bare and padded."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shampoo_jax import roots
from tests.references import root_solvers as reference

D = 6
NEWTON = {"tolerance": 1e-10, "max_iterations": 100}
HIGHER = {"rel_epsilon": 1e-4, "abs_epsilon": 1e-6, "tolerance": 1e-10}
# Solver, its options, exponents that it takes.
SOLVERS = [
    ("eigh_root", {}, (0.5, 0.25, 1 / 3)),
    ("pseudo_inverse_root", {}, (0.5, 0.25)),
    ("pseudo_inverse_root", {"rank_rtol": 0.3}, (0.25,)),
    ("pseudo_inverse_root", {"rank_atol": 1.0}, (0.25,)),
    ("newton_root", NEWTON, (0.5, 1 / 3)),
    ("newton_root", NEWTON | {"max_iterations": 3}, (0.25,)),
    ("higher_order_root", HIGHER | {"order": 2}, (0.5,)),
    ("higher_order_root", HIGHER | {"order": 3}, (0.25, 0.4)),
    ("higher_order_root", HIGHER | {"order": 4, "max_iterations": 2}, (0.25,)),
    ("higher_order_root", HIGHER | {"abs_epsilon": 2.0, "order": 3}, (1.5,)),
    ("eigh_basis", {}, (0.5,)),
    ("eigh_basis", {"tolerance": 0.05}, (0.5,)),
    ("eigh_basis", {"tolerance": 0.2}, (0.5,)),
    ("qr_basis", {"max_iterations": 1}, (0.5,)),
    ("qr_basis", {"max_iterations": 3}, (0.5,)),
    ("qr_basis", {"max_iterations": 50, "tolerance": 0.01}, (0.5,)),
    ("qr_basis", {"max_iterations": 5, "tolerance": 0.2}, (0.5,)),
    ("qr_basis", {"first": "smallest", "max_iterations": 2}, (0.5,)),
    ("qr_basis", {"first": "smallest", "max_iterations": 50, "tolerance": 0.01}, (0.5,)),
]
CASES = [(name, options, e) for name, options, exponents in SOLVERS for e in exponents]


def matrix(rank=D):
    g = np.random.default_rng(0).normal(size=(D, rank))
    return g @ g.T


def near_basis(a):
    """Eigenvectors of `a`, a little turned: a tenth of its norm is off the diagonal."""
    turn = np.linalg.qr(np.eye(D) + 0.04 * np.random.default_rng(1).normal(size=(D, D)))[0]
    near = np.linalg.eigh(a)[1] @ turn
    assert 0.05 < reference.off_diagonal(near.T @ a @ near) < 0.2
    return near


def refresh(name, a, previous, pad, exponent, eps=1e-3, **options):
    padded = jnp.pad(jnp.asarray(a), ((0, pad), (0, pad)))
    before = jnp.eye(D + pad, dtype=padded.dtype).at[:D, :D].set(previous)
    return program(name, exponent, eps, tuple(options.items()))(padded, before)


@functools.cache
def program(name, exponent, eps, options):
    """One per solver and options, whatever the rank and the test."""
    solver = functools.partial(getattr(roots, name), **dict(options))
    return jax.jit(
        lambda a, before: solver(a, D, before, exponent=exponent, eps=eps, relative_eps=False)
    )


@pytest.mark.parametrize("pad", [0, 3])
@pytest.mark.parametrize("rank", [D, 3])
@pytest.mark.parametrize("name, options, exponent", CASES)
def test_a_solver_finds_what_numpy_finds(x64, name, options, exponent, rank, pad):
    a = matrix(rank)
    previous = near_basis(a) if "basis" in name else np.eye(D)
    found = refresh(name, a, previous, pad, exponent, **options)
    solver = getattr(reference, name)
    given = {"exponent": exponent, "eps": 1e-3, "previous": previous} | options
    taken = inspect.signature(solver).parameters
    wanted = solver(a, **{k: v for k, v in given.items() if k in taken})
    if "basis" in name:  # eigenvectors are found up to their signs, those of zero up to a turn
        assert_same_basis(found.value[:D, :D], wanted, null=D - rank)
        padding = np.abs(found.value[D:, D:])
        np.testing.assert_allclose(padding, np.eye(pad), atol=1e-12)
    else:
        np.testing.assert_allclose(found.value[:D, :D], wanted, rtol=1e-8, atol=1e-8)
        np.testing.assert_array_equal(found.value[D:, D:], 0)
    np.testing.assert_array_equal(found.value[:D, D:], 0)
    np.testing.assert_array_equal(found.value[D:, :D], 0)


def assert_same_basis(found, wanted, null):
    overlap = np.abs(np.asarray(found).T @ wanted)
    np.testing.assert_allclose(overlap[null:, null:], np.eye(D - null), atol=1e-8)
    np.testing.assert_allclose(found.T @ found, np.eye(D), atol=1e-10)


def _is_long(options) -> bool:
    """Tell which programs take long to compile."""
    return options.get("max_iterations") == 50


@pytest.mark.parametrize(
    "name, options, exponent",
    [pytest.param(*case, marks=[pytest.mark.long] * _is_long(case[1])) for case in CASES],
)
def test_padding_changes_nothing(name, options, exponent):
    """In float32, where an iteration stops by a rounding error more or less."""
    a = matrix().astype(np.float32)
    previous = near_basis(a)
    found = [refresh(name, a, previous, pad, exponent, **options) for pad in (0, 2, 10)]
    for padded in found[1:]:
        difference = np.abs(padded.value[:D, :D] - found[0].value).max()
        assert difference <= 2e-5 * np.abs(found[0].value).max()
        np.testing.assert_allclose(padded.condition, found[0].condition, rtol=1e-2)


@pytest.mark.parametrize("tolerance, kept", [(0.05, False), (0.2, True)])
def test_an_adaptive_basis_is_kept_while_it_is_good(x64, tolerance, kept):
    a = matrix()
    previous = near_basis(a)
    for name in ("eigh_basis", "qr_basis"):
        found = refresh(name, a, previous, 2, 0.5, tolerance=tolerance).value[:D, :D]
        assert np.array_equal(found, previous) == kept


@pytest.mark.parametrize("pad", [0, 3])
def test_one_iteration_brings_a_basis_nearer(x64, pad):
    """Of an ill-conditioned matrix, where small eigenvalues first would lose it."""
    a = matrix() * np.logspace(-3, 0, D)[:, None] * np.logspace(-3, 0, D)[None, :]
    before = near_basis(a)
    after = refresh("qr_basis", a, before, pad, 0.5, eps=0.0).value[:D, :D]
    start, end = (reference.off_diagonal(q.T @ a @ q) for q in (before, np.asarray(after)))
    assert end < start / 2


def test_an_order_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="first: expected 'largest' or 'smallest', found 'best'"):
        refresh("qr_basis", matrix(), np.eye(D), 0, 0.5, first="best")


@pytest.mark.parametrize("name", ["newton_root", "higher_order_root"])
def test_an_exponent_that_an_iteration_cannot_take_is_refused(name):
    with pytest.raises(ValueError, match=f"exponent: expected .* for {name}, found 0.70710"):
        refresh(name, matrix(), np.eye(D), 0, 2**-0.5)


def test_an_order_below_two_is_refused():
    with pytest.raises(ValueError, match="order: expected at least 2, found 1"):
        refresh("higher_order_root", matrix(), np.eye(D), 0, 0.5, order=1)
