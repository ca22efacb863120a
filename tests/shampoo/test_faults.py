"""Bad numbers inside a step: training goes on, and the state says what happened."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import shampoo_jax
from shampoo_jax import Blocks, Refresh
from shampoo_jax.roots import Refreshed, eigh_root
from tests.shampoo.grouped import grouped

OPTIONS = {"block_size": 8, "precondition_frequency": 2}


def _params(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return {
        "w": jnp.asarray(rng.normal(size=(12, 6)), dtype),
        "b": jnp.asarray(rng.normal(size=(5,)), dtype),
    }


def _run(tx, params, grads):
    step = jax.jit(tx.update)
    state = jax.jit(tx.init)(params)
    for g in grads:
        updates, state = step(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def _assert_finite(*trees):
    for x in jax.tree.leaves(trees):
        if jnp.issubdtype(x.dtype, jnp.floating):
            assert jnp.isfinite(x).all()


def _noise(params, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(scale * rng.normal(size=p.shape), p.dtype), params)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("leaves", [("w",), ("w", "b")], ids=["one leaf", "all"])
def test_a_gradient_that_is_not_finite_enters_nothing(bad, leaves, dtype):
    params = _params(dtype)
    grads = [_noise(params, seed) for seed in range(6)]
    for leaf in leaves:
        grads[2] = {**grads[2], leaf: jnp.full_like(params[leaf], bad)}
    tx = shampoo_jax.shampoo(0.01, **grouped(**OPTIONS))
    end, state = _run(tx, params, grads)
    _assert_finite(end, state)
    blocks = {"w": 2, "b": 1}
    assert shampoo_jax.diagnostics(state).skipped.sum() == sum(blocks[leaf] for leaf in leaves)


def test_a_skipped_block_is_as_if_its_gradient_were_missing():
    params = _params()
    grads = [_noise(params, seed) for seed in range(4)]
    bad = [dict(g) for g in grads]
    bad[1]["w"] = jnp.full_like(params["w"], jnp.nan)
    missing = [dict(g) for g in grads]
    missing[1]["w"] = None
    tx = shampoo_jax.shampoo(0.01, **grouped(**OPTIONS))
    ends = [_run(tx, params, g)[0] for g in (bad, missing)]
    np.testing.assert_array_equal(ends[0]["w"], ends[1]["w"])


def test_all_zero_gradients_for_a_thousand_steps():
    tx = shampoo_jax.shampoo(0.01, **grouped(**OPTIONS))
    params = _params()
    zeros = jax.tree.map(jnp.zeros_like, params)

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    repeated = jax.tree.map(lambda x: jnp.broadcast_to(x[None], (1000, *x.shape)), zeros)
    (end, state), _ = jax.jit(lambda c: jax.lax.scan(step, c, repeated))((params, tx.init(params)))
    np.testing.assert_array_equal(end["w"], params["w"])
    assert shampoo_jax.diagnostics(state).failures.sum() == 0
    end, state = jax.jit(step)((end, state), _noise(params, 1))[0]
    _assert_finite(end, state)
    assert jnp.abs(end["w"] - params["w"]).max() < 0.1


@pytest.mark.parametrize("scale", [1e-8, 1e-15, 1e8])
def test_the_scale_of_gradients_does_not_matter(scale):
    params = _params()
    ends = []
    for s in (1.0, scale):
        tx = shampoo_jax.shampoo(
            0.01, grafting=shampoo_jax.grafting.adam(eps=0.0), **grouped(**OPTIONS)
        )
        end, state = _run(tx, params, [_noise(params, seed, s) for seed in range(6)])
        _assert_finite(end, state)
        ends.append(end)
    np.testing.assert_allclose(ends[0]["w"], ends[1]["w"], atol=2e-3)


def test_rank_one_gradients_and_condition_1e12():
    params = _params()
    rng = np.random.default_rng(1)
    ranks = [
        {
            "w": jnp.asarray(np.outer(rng.normal(size=12), rng.normal(size=6)), jnp.float32),
            "b": params["b"],
        }
        for _ in range(6)
    ]
    stretched = []
    for seed in range(6):
        g = _noise(params, seed)
        stretched.append({**g, "w": g["w"] * jnp.logspace(0, -6, 12)[:, None]})
    for grads in (ranks, stretched):
        end, state = _run(shampoo_jax.shampoo(0.01, **grouped(**OPTIONS)), params, grads)
        _assert_finite(end, state)
        assert jnp.abs(end["w"] - params["w"]).max() < 1.0
        assert shampoo_jax.diagnostics(state).failures.sum() == 0


def test_a_root_that_fails_keeps_the_previous_one_and_is_counted():
    def failing(a, size, previous, **options):
        good = eigh_root(a, size, previous, **options)
        broken = jnp.trace(a) > 100.0
        return Refreshed(jnp.where(broken, jnp.nan, good.value), good.residual, good.condition)

    tx = shampoo_jax.shampoo(0.01, b2=0.5, **grouped(solver=failing, **OPTIONS))
    params = _params()
    quiet = [_noise(params, seed, 0.1) for seed in range(4)]
    _, before = _run(tx, params, quiet)
    end, after = _run(tx, params, quiet + [_noise(params, seed, 100.0) for seed in range(4)])
    _assert_finite(end, [pool._replace(residual=jnp.zeros(1)) for pool in after[0].pools])
    assert jnp.isinf(shampoo_jax.diagnostics(after).residual).any()
    assert shampoo_jax.diagnostics(before).failures.sum() == 0
    assert all((pool.failures > 0).all() for pool in after[0].pools if pool.factors)
    for old, new in zip(before[0].pools, after[0].pools):
        for a, b in zip(old.roots, new.roots):
            np.testing.assert_array_equal(a, b)
    assert shampoo_jax.diagnostics(after).staleness.max() >= 4


def test_a_large_residual_is_refused():
    def sloppy(a, size, previous, **options):
        return eigh_root(a, size, previous, **options)._replace(residual=jnp.float32(0.5))

    tx = shampoo_jax.shampoo(0.01, **grouped(solver=sloppy, max_residual=0.4, **OPTIONS))
    params = _params()
    _, state = _run(tx, params, [_noise(params, seed) for seed in range(4)])
    health = shampoo_jax.diagnostics(state).summary()
    assert health["failures"] > 0
    assert health["staleness_max"] == -1
    assert health["residual_max"] == 0.5


def test_diagnostics_measure_the_condition():
    tx = shampoo_jax.scale_by_shampoo(
        b2=1.0,
        eps=1e-3,
        blocks=Blocks(block_size=8),
        refresh=Refresh(stagger=False, precondition_frequency=1),
    )
    params = {"w": jnp.zeros((4, 4))}
    g = {"w": jnp.diag(jnp.array([1.0, 0.5, 0.1, 0.01]))}
    _, state = _run(tx, params, [g])
    found = shampoo_jax.diagnostics(state)
    np.testing.assert_allclose(found.condition, (1 + 1e-3) / (1e-4 + 1e-3), rtol=1e-3)
    np.testing.assert_array_equal(found.staleness, 0)


def test_diagnostics_of_another_optimizer_are_refused():
    with pytest.raises(ValueError, match="state: expected one that holds a ShampooState"):
        shampoo_jax.diagnostics(optax.adam(0.1).init(_params()))


def test_a_block_keeps_all_its_roots_where_one_side_fails():
    """Sides of one shape are solved at once; the worst of them decides."""

    def failing(a, size, previous, **options):
        good = eigh_root(a, size, previous, **options)
        residual = jnp.where(a[0, 0] > 50.0, 1e3, good.residual)
        return good._replace(residual=residual)

    tx = shampoo_jax.shampoo(0.01, b2=0.5, **grouped(solver=failing, **OPTIONS))
    params = {"w": jnp.zeros((8, 8))}
    quiet = [_noise(params, seed) for seed in range(4)]
    _, before = _run(tx, params, quiet)
    # Of the left factor alone the first entry is large.
    loud = [{"w": g["w"].at[0].multiply(20.0)} for g in quiet]
    _, after = _run(tx, params, quiet + loud)
    assert (after[0].pools[0].failures > 0).all()
    for old, new in zip(before[0].pools[0].roots, after[0].pools[0].roots):
        np.testing.assert_array_equal(old, new)


def test_eigenvalues_follow_gradients_however_small():
    """Between two refreshes, in the bases of the last one."""
    tx = shampoo_jax.kl_shampoo(0.01, **grouped(block_size=8, precondition_frequency=100))
    params = {"w": jnp.zeros((8, 8))}
    grads = [_noise(params, seed, 1e-3) for seed in range(3)]
    (_, before), (_, after) = (_run(tx, params, grads[:count]) for count in (2, 3))
    for old, new in zip(before[0].pools[0].spectra, after[0].pools[0].spectra):
        assert (jnp.abs(new - old) > 1e-3 * jnp.abs(old)).any()


def test_no_block_is_refreshed_before_its_turn():
    """Three blocks in two turns: one of the turns has a row less than there is room for."""
    tx = shampoo_jax.shampoo(0.01, **grouped(**OPTIONS))
    params = {"w": jnp.zeros((24, 8))}
    state, step = jax.jit(tx.init)(params), jax.jit(tx.update)
    refreshed = []
    for seed in range(8):
        _, state = step(_noise(params, seed), state, params)
        last = np.asarray(state[0].pools[0].last_refresh)
        refreshed.append(np.flatnonzero(last == last.max()).tolist())
    turns = refreshed[2:4]  # the first steps start all
    assert sorted(turns[0] + turns[1]) == [0, 1, 2]
    assert refreshed[2:] == turns * 3
