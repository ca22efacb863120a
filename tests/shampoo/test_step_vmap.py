"""`jax.vmap` over whole models gives what separate models give, and ends on two cores."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import shampoo_jax
from shampoo_jax import roots
from tests.shampoo.grouped import grouped, long

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
from shampoo_jax import Refresh, shampoo
params = {"w": jax.random.normal(jax.random.key(0), (4, 256, 256))}
tx = shampoo(0.05, refresh=Refresh(precondition_frequency=2))

def run(init, update, params):
    state = jax.jit(init)(params)
    step = jax.jit(lambda p, s: update(p, s, p))
    for _ in range(5):
        updates, state = step(params, state)
        params = jax.tree.map(jnp.add, params, updates)
    return np.asarray(params["w"])

together = run(jax.vmap(tx.init), jax.vmap(tx.update), params)
for k in (0, 3):
    alone = run(tx.init, tx.update, {"w": params["w"][k]})
    assert np.abs(together[k] - alone).max() <= 1e-5 * np.abs(alone).max()
print("equal")
"""


REFRESHES = """
import jax, jax.numpy as jnp
from shampoo_jax import Refresh, shampoo
params = {i: jax.random.normal(jax.random.key(i), (64, 64)) for i in range(4)}
tx = shampoo(0.05, refresh=Refresh(1, stagger=False))

@jax.jit
def step(params, state):
    updates, state = tx.update(params, state, params)
    return jax.tree.map(jnp.add, params, updates), state

state = tx.init(params)
for _ in range(1000):
    params, state = step(params, state)  # queued, as a loop without a log does
assert (state[0].pools[0].last_refresh == 1000).all()
print("ended")
"""


def _end_of(script):
    environment = {
        k: v for k, v in os.environ.items() if k not in ("NPROC", "OPENBLAS_NUM_THREADS")
    }
    environment["XLA_FLAGS"] = ""
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    return found.stdout or found.stderr


@pytest.mark.slow
def test_models_of_several_large_blocks_end_on_two_cores():
    """Batched LAPACK calls would wait for one another for ever there."""
    assert _end_of(SCRIPT) == "equal\n"


@pytest.mark.long
@pytest.mark.slow
def test_a_thousand_refreshes_of_all_blocks_end():
    assert _end_of(REFRESHES) == "ended\n"


OPTIMIZERS = {
    "shampoo": (shampoo_jax.shampoo, {}),
    "all at once": (shampoo_jax.shampoo, {"stagger": False}),
    "newton": (shampoo_jax.shampoo, {"solver": roots.newton_root}),
    "soap": (shampoo_jax.soap, {}),
    "kl_shampoo": (shampoo_jax.kl_shampoo, {}),
    "adaptive": (shampoo_jax.soap, {"solver": functools.partial(roots.qr_basis, tolerance=0.05)}),
}


def make(name, **options):
    factory, own = OPTIMIZERS[name]
    return factory(0.05, **grouped(**own, **options))


def models(count):
    """Small enough that no factor is singular at a refresh: its null space has no own basis."""
    rng = np.random.default_rng(0)
    return [
        {"w": jnp.asarray(rng.normal(size=(12, 6))), "b": jnp.asarray(rng.normal(size=3))}
        for _ in range(count)
    ]


def stack(trees):
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def run(tx, params, state, grads, wrap=lambda f: f):
    step = jax.jit(wrap(tx.update))
    for g in grads:
        updates, state = step(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("name", ["shampoo", "soap", *long("all at once", "newton", "adaptive")])
def test_mapped_models_are_as_separate_ones(x64, name):
    """Also where they are at different steps, or the gradient of one is not finite."""
    tx = make(name, block_size=8, precondition_frequency=3, max_pools=1)
    params, steps = models(3), [models(3) for _ in range(5)]
    steps[3][2]["w"] = jnp.full((12, 6), jnp.nan)
    starts = [jax.jit(tx.init)(p) for p in params]
    _, starts[1] = run(tx, params[1], starts[1], [models(1)[0]])  # is one step ahead
    together = run(tx, stack(params), stack(starts), [stack(g) for g in steps], wrap=jax.vmap)
    for k in range(3):
        alone = run(tx, params[k], starts[k], [g[k] for g in steps])
        for leaf, found in together[0].items():
            np.testing.assert_allclose(found[k], alone[0][leaf], rtol=1e-6, atol=1e-8)
        for a, b in zip(together[1][0].pools, alone[1][0].pools):  # bases differ by signs
            for field in ("last_refresh", "failures", "skipped"):
                np.testing.assert_array_equal(getattr(a, field)[k], getattr(b, field))


@pytest.mark.parametrize("name", ["shampoo", "soap"])
def test_a_mapped_step_that_nothing_is_due_in_skips_the_work(name):
    """The conditional around the refresh is one over all models: vmap makes a select of others."""
    tx = make(name, stagger=False)
    params = stack(models(3))
    state = jax.vmap(tx.init)(params)
    text = str(jax.make_jaxpr(jax.vmap(tx.update))(params, state, params))
    alone = str(jax.make_jaxpr(tx.update)(models(1)[0], tx.init(models(1)[0]), models(1)[0]))
    assert text.count("cond[") >= alone.count("cond[") > 0
