"""KL-Shampoo and KL-SOAP against the formulas, and what the rule promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import shampoo_jax
from shampoo_jax import Blocks, Refresh, Root, roots
from tests.references import kl_reference

B1, B2 = 0.8, 0.9


def _gradients(shape, steps, seed=0):
    rng = np.random.default_rng(seed)
    sides = [rng.normal(size=(d, d)) / np.sqrt(d) for d in shape]
    for _ in range(steps):
        g = rng.normal(size=shape)
        for k, side in enumerate(sides):
            g = np.moveaxis(np.tensordot(side, g, axes=(1, k)), 0, k)
        yield g


def _directions(tx, gradients):
    gradients = list(gradients)
    params = {"w": jnp.zeros(gradients[0].shape)}
    state, step = tx.init(params), jax.jit(tx.update)
    for g in gradients:
        updates, state = step({"w": jnp.asarray(g)}, state, params)
        yield -np.asarray(updates["w"])


@pytest.mark.parametrize("frequency", [1, 3])
@pytest.mark.parametrize("soap", [False, True], ids=["kl_shampoo", "kl_soap"])
@pytest.mark.parametrize("shape", [(7, 4), (3, 5, 4)], ids=str)
def test_equals_the_formulas_in_float64(shape, soap, frequency, x64):
    options = {"b1": B1, "b2": B2, "eps": 1e-2 if not soap else 1e-6}
    block = kl_reference.Block(shape, soap=soap, frequency=frequency, **options)
    root, make = Root(), shampoo_jax.kl_shampoo
    if soap:  # in the order that uses a basis in the step that refreshes it
        kind = {"preconditioner": "eigenvalue_corrected", "track_eigenvalues": True}
        root, make = Root(factors="kl", **kind), shampoo_jax.kl_soap
    tx = make(
        1.0,
        **options,
        root=root,
        blocks=Blocks(target_dimensionality=None, factor_limit=None),
        refresh=Refresh(precondition_frequency=frequency, stagger=False),
    )
    gradients = list(_gradients(shape, 8))
    # The first gradient spans a part of the space: one unit in its last place moves what the
    # formulas themselves give by some 5e-9.
    moved = kl_reference.Block(shape, soap=soap, frequency=frequency, **options)
    for g, found in zip(gradients, _directions(tx, gradients), strict=True):
        expected = block.step(g)
        rounding = np.abs(moved.step(np.nextafter(g, np.inf)) - expected).max()
        atol = max(1e-9 * np.abs(expected).max(), 4 * rounding)
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=atol)


@pytest.mark.parametrize("make", [shampoo_jax.kl_shampoo, shampoo_jax.kl_soap])
@pytest.mark.parametrize("root", [Root(), Root(solver=roots.eigh_root)], ids=["tracked", "stale"])
def test_the_scale_of_gradients_does_not_matter(make, root, x64):
    if root.solver and make is shampoo_jax.kl_soap:
        root = Root(preconditioner="soap")
    tx = make(1.0, eps=1e-12, root=root, refresh=Refresh(precondition_frequency=3))
    gradients = list(_gradients((12, 8), 7))
    large = _directions(tx, [1e4 * g for g in gradients])
    for one, other in zip(large, _directions(tx, gradients), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_directions_are_white_and_have_the_size_of_adams():
    """On gradients A Z B: the spread over all directions is gone, on both sides at once."""
    shape = (24, 16)
    tx = shampoo_jax.kl_shampoo(1.0, b1=0.0, b2=0.99)
    found = np.stack(list(_directions(tx, _gradients(shape, 400))))
    start, late = found[:20], found[200:]
    assert 0.3 < np.sqrt(np.mean(start**2)) < 3
    assert np.sqrt(np.mean(late**2)) == pytest.approx(1, abs=0.1)
    for sides in ("nab,ncb->ac", "nba,nbc->ac"):
        moment = np.einsum(sides, late, late)
        lam = np.linalg.eigvalsh(moment)
        assert lam[-1] / lam[0] < 2


def test_the_sum_over_the_other_side_disagrees_on_the_scale():
    """Why the mean is the default: by sums, a long matrix has no scale that both sides agree on."""
    gradients = list(_gradients((32, 2), 300))
    size = {}
    for rule in ("kl", "kl_sum"):
        tx = shampoo_jax.kl_shampoo(
            1.0,
            b1=0.0,
            blocks=Blocks(factor_limit=None),
            root=Root(factors=rule, preconditioner="eigendecomposed", track_eigenvalues=True),
        )
        late = np.stack(list(_directions(tx, gradients)))[-100:]
        size[rule] = np.sqrt(np.mean(late**2))
    assert size["kl"] == pytest.approx(1, abs=0.15)
    assert size["kl_sum"] < 0.5


def test_vectors_take_adams_direction_and_matrices_keep_no_second_moment():
    params = {"w": jnp.ones((6, 4)), "b": jnp.ones((5,))}
    state = shampoo_jax.kl_shampoo(1e-2).init(params)
    sizes = [[x.shape[1:] for x in jax.tree.leaves(p.graft)] for p in state[0].pools]
    assert sorted(sizes) == [[], [(8,)]]
    g = {"w": jnp.ones((6, 4)), "b": jnp.linspace(-1.0, 2.0, 5)}
    updates, _ = shampoo_jax.kl_shampoo(1.0).update(g, state, params)
    np.testing.assert_allclose(updates["b"], -jnp.sign(g["b"]), rtol=1e-4)


@pytest.mark.parametrize("make", [shampoo_jax.kl_shampoo, shampoo_jax.kl_soap])
def test_a_zero_gradient_moves_nothing_and_breaks_nothing(make):
    tx = make(1.0, refresh=Refresh(precondition_frequency=1))
    zero, g = np.zeros((6, 4)), np.asarray(next(_gradients((6, 4), 1)))
    found = list(_directions(tx, [zero, zero, g, g]))
    assert not np.any(found[1])
    assert np.isfinite(found[2:]).all() and np.any(found[3])
