"""shampoo_jax against the independent float64 implementation, on drawn shapes and options."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import shampoo_jax
from shampoo_jax import grafting
from tests.references import shampoo_reference
from tests.shampoo.grouped import grouped

# All kinds of grafting come in the first five; the others with `make test-long`.
CASES = [pytest.param(seed, marks=[pytest.mark.long] * (seed > 4)) for seed in range(10)]


def _draw_case(seed):
    """Return shapes and options drawn from a seed: every option takes several values."""
    rng = np.random.default_rng(seed)
    orders = [1, 2, 2, 3, int(rng.integers(1, 5))]
    shapes = {f"p{i}": tuple(int(d) for d in rng.integers(1, 9, o)) for i, o in enumerate(orders)}
    b1 = float(rng.choice([0.0, 0.8]))
    momentum = float(rng.choice([0.0, 0.6]))
    options = shampoo_reference.Options(
        b1=b1,
        b2=float(rng.choice([0.9, 1.0])),
        b3=float(rng.choice([0.5, 0.7])) if b1 and rng.integers(2) else None,
        eps=float(rng.choice([1e-4, 1e-2])),
        relative_eps=bool(rng.integers(2)),
        graft=[None, "sgd", "adagrad", "rmsprop", "adam"][seed % 5],
        precondition_frequency=int(rng.integers(1, 4)),
        block_size=int(rng.integers(3, 7)),
        momentum=momentum,
        nesterov=bool(momentum and rng.integers(2)),
        weight_decay=float(rng.choice([0.0, 0.1])),
        bias_correction=bool(rng.integers(2)),
        weighted=seed % 3 != 2,
        graft_weighted=seed % 3 != 1,
        trace_scaling=[None, 0.5, 1.0][int(rng.integers(3))],
    )
    draw = lambda: {k: rng.normal(size=s) for k, s in shapes.items()}  # noqa: E731
    return draw(), [draw() for _ in range(8)], options


def _grafting(o):
    if o.graft is None:
        return None
    if o.graft == "sgd":
        return grafting.sgd()
    if o.graft == "adagrad":
        return grafting.adagrad(eps=o.graft_eps)
    method = getattr(grafting, o.graft)
    return method(b2=o.graft_b2, eps=o.graft_eps, weighted=o.graft_weighted)


def _transform(o):
    names = ("b1", "b2", "b3", "eps", "relative_eps", "precondition_frequency", "block_size")
    names += ("momentum", "nesterov", "weight_decay", "bias_correction")
    names += ("weighted", "trace_scaling")
    given = {name: getattr(o, name) for name in names}
    given |= {"grafting": _grafting(o), "stagger": False, "max_residual": np.inf}
    given |= {"target_dimensionality": 1, "exponents": _exponents}
    return shampoo_jax.shampoo(o.learning_rate, **grouped(**given))


def _exponents(shape):
    """1 / (2 order), vectors and long sides too, as the paper has it."""
    return (1 / (2 * len(shape)),) * len(shape)


@pytest.mark.parametrize("seed", CASES)
def test_equals_the_reference_in_float64(seed, x64):
    params, grads, options = _draw_case(seed)
    expected = shampoo_reference.run(params, grads, options)
    tx = _transform(options)
    found = jax.tree.map(jnp.asarray, params)
    state = tx.init(found)
    step = jax.jit(tx.update)
    for g, wanted in zip(grads, expected, strict=True):
        updates, state = step(jax.tree.map(jnp.asarray, g), state, found)
        found = jax.tree.map(jnp.add, found, updates)
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-8, atol=1e-9, err_msg=name)
    blocks = sum(
        shampoo_reference.count_blocks(
            shampoo_reference.merged(p.shape, options.block_size), options.block_size
        )
        for p in params.values()
    )
    assert sum(int((pool.last_refresh > 0).sum()) for pool in state[0].pools) == blocks


def test_a_dim_of_exponent_zero_is_not_rotated(x64):
    """The second moment of the eigenvalue-corrected form keeps the parameter's own axis there."""
    rng, b2, eps = np.random.default_rng(0), 0.9, 1e-8
    tx = shampoo_jax.soap(
        1.0,
        b1=0.0,
        b2=b2,
        eps=eps,
        **grouped(
            preconditioner="eigenvalue_corrected",
            exponents=lambda shape: (0, 1),
            precondition_frequency=1,
        ),
    )
    params = jnp.zeros((4, 3))
    state, second, right = tx.init(params), 0.0, 0.0
    for t in range(1, 4):
        g = rng.normal(size=(4, 3))
        updates, state = jax.jit(tx.update)(jnp.asarray(g), state, params)
        right = b2 * right + (1 - b2) * g.T @ g
        q = np.linalg.eigh(right)[1]
        second = b2 * second + (1 - b2) * (g @ q) ** 2
        expected = (g @ q / (np.sqrt(second / (1 - b2**t)) + eps)) @ q.T
        np.testing.assert_allclose(updates, -expected, rtol=1e-7, atol=1e-9)


def test_the_reference_agrees_with_a_trajectory():
    """The reference itself is held against the original software, where its options reach."""
    file = pathlib.Path(__file__).parent / "trajectories" / "p02_plain_ema_biascorr.npz"
    with np.load(file) as z:
        case = json.loads(str(z["config_json"]))
        names, c = case["param_order"], case["config"]
        options = shampoo_reference.Options(
            learning_rate=c["lr"],
            b1=c["beta1"],
            b2=c["beta2"],
            eps=c["epsilon"],
            graft=None,
            precondition_frequency=c["precondition_frequency"],
            block_size=c["max_preconditioner_dim"],
        )
        grads = [{p: z[f"grads/{p}"][t] for p in names} for t in range(case["num_steps"])]
        path = shampoo_reference.run({p: z[f"init/{p}"] for p in names}, grads, options)
        for p in names:
            np.testing.assert_allclose(
                np.stack([x[p] for x in path]), z[f"params64/{p}"], rtol=1e-8, atol=1e-10
            )
