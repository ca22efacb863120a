"""Factors in half the bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import shampoo_jax
from shampoo_jax import Blocks, Refresh, layout, packing
from shampoo_jax.plan import make_plan
from shampoo_jax.state import PoolState, find_states


@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_a_symmetric_matrix_comes_back(side):
    a = np.random.default_rng(0).normal(size=(2, 3, side, side)).astype(np.float32)
    a = jnp.asarray(a + a.mT)
    packed = jax.jit(packing.pack)(a)
    assert packed.shape == (2, 3, *packing.packed_shape(side))
    np.testing.assert_array_equal(packing.unpack(packed, side), a)


def test_a_packed_matrix_has_each_element_once():
    a = jnp.arange(64.0).reshape(8, 8)
    packed = np.sort(packing.pack(jnp.triu(a) + jnp.triu(a, 1).T), axis=None)
    np.testing.assert_array_equal(packed, np.asarray(a)[np.triu_indices(8)])


def test_the_factors_are_those_of_the_gradient_in_half_the_bytes():
    g = jnp.asarray(np.random.default_rng(0).normal(size=(16, 8)), jnp.float32)
    tx = shampoo_jax.scale_by_shampoo(b2=1.0)
    _, state = jax.jit(tx.update)({"w": g}, tx.init({"w": g}))
    (pool,) = find_states(state, PoolState)
    for factor, expected in zip(pool.factors, (g @ g.T, g.T @ g), strict=True):
        whole = packing.unpack(factor, expected.shape[0])[0]
        np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=1e-5)
    sizes = shampoo_jax.memory({"w": g})
    assert sizes["factors"] == 4 * (16 * 17 + 8 * 9) // 2
    assert sizes["roots"] == 4 * (16 * 16 + 8 * 8)


@pytest.mark.parametrize("make", [shampoo_jax.shampoo, shampoo_jax.kl_shampoo])
def test_a_checkpoint_holds_whole_factors_of_the_true_size(make):
    """Packed or, where eigenvalues are tracked, not: the state comes back."""
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(13, 6)), jnp.float32)}
    tx, other = (make(1e-2, blocks=shampoo_jax.Blocks(round_to=n)) for n in (8, 4))
    _, state = jax.jit(tx.update)(params, tx.init(params), params)
    tree = shampoo_jax.to_canonical(state, params)
    blocks = tree[0]["blocks"]["['w']@0_0"]
    assert blocks["factors.0"].shape == (1, 13, 13)
    np.testing.assert_array_equal(blocks["factors.0"], blocks["factors.0"].mT)
    again = shampoo_jax.from_canonical(tree, tx.init(params), params=params)
    jax.tree.map(np.testing.assert_array_equal, again, state)
    moved = shampoo_jax.from_canonical(tree, other.init(params), params=params)
    jax.tree.map(np.testing.assert_array_equal, shampoo_jax.to_canonical(moved, params), tree)


def test_sides_whose_packed_factors_look_alike_have_roots_of_their_own():
    """Sides of 3 and 4 without padding; with it, both are 4."""
    rng = np.random.default_rng(0)
    grads = [{"w": rng.normal(size=(4, 3)).astype(np.float32)} for _ in range(4)]

    def directions(round_to):
        blocks = Blocks(block_size=4, round_to=round_to, factor_limit=None)
        tx = shampoo_jax.shampoo(0.1, blocks=blocks, refresh=Refresh(2))
        state, found, update = tx.init(grads[0]), [], jax.jit(tx.update)
        for grad in grads:
            updates, state = update(grad, state, grads[0])
            found.append(updates["w"])
        return found, state[0].pools[0].roots

    bare, roots = directions(1)
    assert [root.shape[1:] for root in roots] == [(4, 4), (3, 3)]
    padded, _ = directions(4)
    np.testing.assert_allclose(bare, padded, rtol=1e-5, atol=1e-6)


def test_the_rows_of_a_leaf_put_together_are_the_leaf():
    """Whole blocks and rests, batches, and a leaf without elements."""
    shapes = ((9, 4), (5,), (3, 2, 7), (11, 10), (), (0, 3))
    plan = make_plan(shapes, Blocks(block_size=4, round_to=3))
    rng = np.random.default_rng(0)
    for number, shape in enumerate(shapes):
        leaf = jnp.asarray(rng.normal(size=shape), jnp.float32)
        view, parts = plan.views[number], []
        for pool in plan.pools:
            for piece in pool.pieces:
                if number in plan.families[piece.family].leaves:
                    parts.append((piece, layout.rows_of_leaf(leaf, view, piece, pool)))
        assert bool(parts) == bool(leaf.size)
        whole = layout.leaf_of_rows(parts, view, shape, jnp.float32)
        np.testing.assert_array_equal(whole, leaf)
