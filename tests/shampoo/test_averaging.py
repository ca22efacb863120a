"""Schedule-Free and GPA against a loop, optax's own, and what optax expects of a wrapper."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import shampoo_jax
from shampoo_jax import averaged, averaged_params

SHAPES = {"w": (4, 3), "b": (5,)}


def _draw(seed):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.normal(size=s)) for k, s in SHAPES.items()}


def _run(tx, steps=6, draw=_draw):
    params = _draw(0)
    state, step = tx.init(params), jax.jit(tx.update)
    for seed in range(1, 1 + steps):
        updates, state = step(draw(seed), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params, state


@pytest.mark.parametrize("evaluation", [None, 0.875], ids=["schedule_free", "gpa"])
@pytest.mark.parametrize("decay_type", ["decoupled", "independent"])
def test_three_sequences(evaluation, decay_type, x64):
    rates = [0.0, 0.1, 0.2, 0.2, 0.05, 0.1]
    rate, decay, t = lambda count: jnp.asarray(rates)[count], 0.5, 0.75
    tx = averaged(
        optax.sgd(rate),
        rate,
        training=t,
        evaluation=evaluation,
        weight_decay=decay,
        decay_type=decay_type,
        peak_learning_rate=0.2,
        mask={"w": True, "b": False},
    )
    params, state = _run(tx)
    found = averaged_params((state,), params)
    for name in SHAPES:
        x = z = np.asarray(_draw(0)[name])
        for seed, lr in enumerate(rates, 1):
            total = sum(r**2 for r in rates[:seed])
            m = 1 - lr**2 / total if total else 1
            m = m if evaluation is None else evaluation
            shrink = lr * decay / (0.2 if decay_type == "independent" else 1)
            if name == "w":  # the decay moves Z, but X and Y only through their average of Z
                y = t * x + (1 - t) * z
                z = z * (1 - shrink)
                x = (y - (1 - t) * z) / t
            z = z - lr * np.asarray(_draw(seed)[name])
            x = m * x + (1 - m) * z
        np.testing.assert_allclose(found[name], x, rtol=1e-5)
        np.testing.assert_allclose(state.z[name], z, rtol=1e-6)


def test_schedule_free_is_optaxs_where_the_rate_never_falls(x64):
    mine, state = _run(averaged(optax.sgd(0.1), 0.1, training=0.9))
    other, other_state = _run(optax.contrib.schedule_free(optax.sgd(0.1), 0.1, b1=0.9))
    x = optax.contrib.schedule_free_eval_params(other_state, other)
    for name in SHAPES:
        np.testing.assert_allclose(mine[name], other[name], rtol=1e-6)
        np.testing.assert_allclose(averaged_params(state, mine)[name], x[name], rtol=1e-6)


def test_a_missing_gradient_leaves_both_sequences_as_they_are():
    tx = averaged(shampoo_jax.shampoo(0.1, b1=0.0), 0.1, weight_decay=0.1)
    params, state = _run(tx, draw=lambda seed: {"w": _draw(seed)["w"], "b": None})
    for found in (params, state.z, averaged_params(state, params)):
        np.testing.assert_allclose(found["b"], _draw(0)["b"], rtol=1e-6)
    assert not np.allclose(params["w"], _draw(0)["w"])


def test_half_precision_is_averaged_in_float32():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), _draw(0))
    tx = averaged(shampoo_jax.shampoo(1e-4, b1=0.0), 1e-4, evaluation=0.9)
    updates, state = jax.jit(tx.update)(params, jax.jit(tx.init)(params), params)
    assert {x.dtype for x in jax.tree.leaves((updates, params))} == {jnp.dtype(jnp.bfloat16)}
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(averaged_params(state, params)))
    for name, z in state.z.items():
        step = params[name].astype(jnp.float32) - z
        np.testing.assert_allclose(step, 1e-4 * jnp.sign(z), rtol=0.3)


def test_inside_scan_with_donation_and_a_checkpoint():
    tx = optax.chain(
        optax.clip_by_global_norm(10.0), averaged(shampoo_jax.shampoo(0.1, b1=0.0), 0.1)
    )

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(params, state, params)  # the loss is |W|^2 / 2
        return (optax.apply_updates(params, updates), state), None

    params = _draw(0)
    state = tx.init(params)
    types = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    run = jax.jit(lambda carry: lax.scan(step, carry, length=30)[0], donate_argnums=0)
    before = float(optax.tree.norm(params))
    params, state = run((params, state))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == types
    assert optax.tree.norm(averaged_params(state, params)) < before / 2
    tree = shampoo_jax.to_canonical(state, params)
    again = shampoo_jax.from_canonical(tree, tx.init(params), params=params)
    expected, _ = step((params, state), None)[0]
    found, _ = step((params, again), None)[0]
    for name in SHAPES:
        np.testing.assert_array_equal(found[name], expected[name])


def test_what_cannot_be_is_refused():
    tx, params = averaged(optax.sgd(0.1), 0.1), _draw(0)
    with pytest.raises(ValueError, match=r"^params: expected the parameters, which are averaged"):
        tx.update(params, tx.init(params))
    with pytest.raises(ValueError, match=r"^state: expected one that holds one AveragedState"):
        averaged_params(optax.sgd(0.1).init(params), params)
    for options, name in (
        ({"training": 0.0}, "training"),
        ({"evaluation": 1.0}, "evaluation"),
        ({"decay_type": "l2"}, "decay_type"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected "):
            averaged(optax.sgd(0.1), 0.1, **options)
