"""Axes have roles: stacks stay apart, kernels are matrices of outputs and inputs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import shampoo_jax
from shampoo_jax import DimensionNumbers, dimension_numbers
from tests.shampoo.grouped import grouped, long

AT_ONCE = {"stagger": False, "precondition_frequency": 2}
SCALES = np.array([1.0, 0.1, 0.01, 10.0])
STEPS = 5


def _gradients(shape, seed=0):
    """Return gradients per step, of another scale for each place along the first axis."""
    rng = np.random.default_rng(seed)
    scales = np.resize(SCALES, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return [jnp.asarray(rng.normal(size=shape) * scales, jnp.float32) for _ in range(STEPS)]


def _directions(rule, gradients, **options):
    """Return the updates of every step for the one leaf `kernel`, named by the keys of a dict."""
    tx = shampoo_jax.shampoo(1.0, dimension_numbers=rule, **grouped(**AT_ONCE | options))
    wrap = lambda g: {"layers": {"Dense_0": {"kernel": g}}}  # noqa: E731
    params = wrap(jnp.zeros(gradients[0].shape))
    state, found = tx.init(params), []
    update = jax.jit(tx.update)
    for g in gradients:
        updates, state = update(wrap(g), state, params)
        found.append(updates["layers"]["Dense_0"]["kernel"])
    return np.stack(found)


LAYERS = dimension_numbers.stacked("layers")


@pytest.mark.parametrize("shape", [(4, 64, 64), (4, 8, 8), (4, 20), (4, 3, 3, 8, 16), (3, 300, 5)])
@pytest.mark.parametrize("block_size", [16, *long(1024)])
def test_stacked_layers_are_separate_leaves(shape, block_size):
    gradients = _gradients(shape)
    stacked = _directions(LAYERS, gradients, block_size=block_size)
    for i in range(shape[0]):
        one = _directions(dimension_numbers.flax, [g[i] for g in gradients], block_size=block_size)
        np.testing.assert_allclose(stacked[:, i], one, rtol=1e-5, atol=1e-5)


def test_layers_and_experts_of_any_axis_are_separate_leaves():
    gradients = _gradients((3, 2, 16, 12))
    experts = dimension_numbers.stacked("Dense_0")
    both = _directions(dimension_numbers.stacked("layers", inner=experts), gradients)
    last = dimension_numbers.stacked("layers", axis=-1, inner=experts)
    moved = _directions(last, [jnp.moveaxis(g, 0, -1) for g in gradients])
    np.testing.assert_allclose(np.moveaxis(moved, -1, 1), both, rtol=1e-5, atol=1e-5)
    for i in range(3):
        for e in range(2):
            one = _directions(None, [g[i, e] for g in gradients])
            np.testing.assert_allclose(both[:, i, e], one, rtol=1e-5, atol=1e-5)


def test_layers_are_mixed_without_a_rule():
    gradients = _gradients((4, 8, 8))
    mixed = _directions(None, gradients)[-1]
    apart = _directions(LAYERS, gradients)[-1]
    assert np.abs(mixed - apart).max() > 0.1 * np.abs(apart).max()


@pytest.mark.parametrize("window", [(3, 3), *long((7, 7), (5,), (2, 3, 2))])
@pytest.mark.parametrize("block_size", [32, 1024])
def test_kernels_of_convolutions_have_the_directions_of_outputs_first(window, block_size):
    """HWIO by flax's rule, as OIHW whose sides are named."""
    hwio = _gradients((*window, 3, 64))
    oihw = [jnp.moveaxis(g, (-1, -2), (0, 1)) for g in hwio]
    rest = tuple(range(1, len(window) + 2))
    named = lambda path, leaf: DimensionNumbers(sides=((0,), rest))  # noqa: E731
    found = _directions(dimension_numbers.flax, hwio, block_size=block_size)
    expected = _directions(named, oihw, block_size=block_size)
    found = np.moveaxis(found, (-1, -2), (1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    if block_size == 1024:  # the shape alone says the same there
        unnamed = _directions(None, oihw, block_size=block_size)
        np.testing.assert_allclose(unnamed, expected, rtol=1e-4, atol=1e-5)


def test_dense_general_is_a_matrix():
    kernel = _gradients((4, 6, 8))
    rule = lambda path, leaf: dimension_numbers.dense_general(path, leaf, inputs=1)  # noqa: E731
    found = _directions(rule, kernel).reshape(STEPS, 4, 48)
    expected = _directions(None, [g.reshape(4, 48) for g in kernel], target_dimensionality=None)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x)), None


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = layers(name="layers")(x, None)
        return nn.Conv(4, (3, 3))(x)


def test_flax_linen_layers_are_read_off_their_names():
    params = Stack().init(jax.random.key(0), jnp.ones((1, 2, 5, 8)))["params"]
    paths = jax.tree_util.tree_leaves_with_path(params)
    found = {}
    for path, leaf in paths:
        names = tuple(key.key for key in path)
        roles = dimension_numbers.resolve(LAYERS, names, leaf)
        found[names[-2], names[-1]] = (roles.batch, roles.sides)
    for module in ("query", "key", "value"):
        assert found[module, "kernel"] == ((0,), ((1,), (2, 3)))
    assert found["out", "kernel"] == ((0,), ((1, 2), (3,)))
    assert found["query", "bias"] == ((0,), None)
    assert found["LayerNorm_0", "scale"] == ((0,), None)
    assert found["Conv_0", "kernel"] == ((), ((3,), (2, 0, 1)))
    tx = shampoo_jax.shampoo(1e-2, dimension_numbers=LAYERS)
    state = tx.init(params)
    updates, _ = jax.jit(tx.update)(params, state, params)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)


def test_flax_nnx_layers_are_read_off_their_names():
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(key):
        return nnx.Linear(8, 6, rngs=nnx.Rngs(key))

    class Model(nnx.Module):
        def __init__(self):
            self.layers = make(jax.random.split(jax.random.key(0), 3))
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))

    model, seen = Model(), {}

    def rule(path, leaf):
        seen[path] = LAYERS(path, leaf)
        return seen[path]

    optimizer = nnx.Optimizer(
        model, shampoo_jax.shampoo(1e-2, dimension_numbers=rule), wrt=nnx.Param
    )
    grads = nnx.grad(lambda m: sum(jnp.sum(x**2) for x in jax.tree.leaves(nnx.state(m))))(model)
    optimizer.update(model, grads)
    by_name = {tuple(n for n in path if n != "value"): roles for path, roles in seen.items()}
    assert by_name["layers", "kernel"].batch == (0,)
    assert by_name["conv", "kernel"].sides == ((-1,), (-2, 0, 1))


def test_what_is_not_preconditioned_is_stepped_by_adam():
    rule = lambda path, leaf: DimensionNumbers(precondition=path[0] != "embedding")  # noqa: E731
    params = {"embedding": jnp.zeros((40, 8)), "kernel": jnp.zeros((40, 8))}
    tx = shampoo_jax.shampoo(1.0, b2=0.9, dimension_numbers=rule, **grouped(**AT_ONCE))
    adam = optax.adam(1.0, b1=0.9, b2=0.9)
    state, expected = tx.init(params), adam.init(params)
    for seed in range(STEPS):
        g = jnp.asarray(np.random.default_rng(seed).normal(size=(40, 8)), jnp.float32)
        grads = {"embedding": g, "kernel": g}
        updates, state = jax.jit(tx.update)(grads, state, params)
        wanted, expected = adam.update(grads, expected, params)
    # optax.adam adds eps to the root of the corrected moment too; only rounding differs.
    np.testing.assert_allclose(updates["embedding"], wanted["embedding"], rtol=1e-4)
    assert np.abs(updates["kernel"] - wanted["kernel"]).max() > 0.1


def _times(shape, **options):
    params = {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}
    return shampoo_jax.memory(params, **options)["total"] / (4 * np.prod(shape))


@pytest.mark.parametrize(
    "shape",
    [(4096,), (128,), (3,), (4096, 16), (16, 4096), (128, 48), (130, 40), (4096, 4096), (512, 8)],
)
@pytest.mark.parametrize("block_size", [128, 1024, None])
def test_no_parameter_costs_more_than_six_and_a_half_times_its_size(shape, block_size):
    # 32 numbers of bookkeeping per block, and sides rounded up to 8, count in the smallest only.
    slack = 1 if np.prod(shape) > 1000 else 30
    assert _times(shape, **grouped(block_size=block_size)) <= 6.55 * slack


def test_a_limit_of_none_keeps_the_factors_of_a_long_side():
    assert _times((4096, 16), **grouped(factor_limit=None)) > 14  # 16, if factors were whole
    assert 2 < _times((4096, 16)) < 3


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (
            DimensionNumbers(batch=(3,)),
            r"expected some axes, once each of w \(4, 3, 2\), found",
        ),
        (DimensionNumbers(batch=(0, -3)), "expected some axes, once each"),
        (
            DimensionNumbers(sides=((0,), (1,))),
            "expected every axis once of w",
        ),
        (DimensionNumbers(batch=(0,), sides=((0,), (1, 2))), "expected every axis once"),
        ((0, 1), r"expected DimensionNumbers or None of w .*, found \(0, 1\)"),
    ],
)
def test_roles_that_do_not_fit_are_refused_by_name(roles, message):
    tx = shampoo_jax.shampoo(1e-2, dimension_numbers=lambda path, leaf: roles)
    with pytest.raises(ValueError, match=f"^dimension_numbers: {message}"):
        tx.init({"w": jnp.zeros((4, 3, 2))})


def test_a_state_of_another_rule_is_refused_by_name():
    params = {"layers": jnp.ones((4, 30, 20))}
    state = shampoo_jax.shampoo(1e-2, dimension_numbers=LAYERS).init(params)
    with pytest.raises(ValueError, match=r"^dimension_numbers: expected those that the state"):
        shampoo_jax.shampoo(1e-2).update(params, state, params)
