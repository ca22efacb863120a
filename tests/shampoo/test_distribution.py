"""Results, collectives and memory must not depend on how many devices share the blocks."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import shampoo_jax
from shampoo_jax import (
    Blocks,
    DimensionNumbers,
    Refresh,
    Root,
    Sharding,
    averaged,
    dimension_numbers,
    grafting,
    orthogonal,
)
from shampoo_jax.distribution import Devices
from tests.shampoo.grouped import grouped

SHAPES = {"w": (48, 40), "b": (33,), "conv": (3, 3, 8, 16), "s": (), "t": (96, 16), "none": (0, 4)}
SPECS = {"w": P("d", "m"), "t": P(("d", "m")), "conv": P(None, None, "m")}
# eps well above float32 rounding: the test compares devices, not the conditioning of roots.
OPTIONS = {"block_size": 16, "precondition_frequency": 3, "eps": 1e-2, "weight_decay": 0.01}

EIGENDECOMPOSED = Root(preconditioner="eigendecomposed", track_eigenvalues=True)
POLAR = orthogonal.polar


def _draw(seed):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in SHAPES.items()}


def _mesh(shape, kind=AxisType.Auto):
    names = ("d", "m")[: len(shape)]
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(shape), devices=devices)


def _specs(mesh):
    def keep(entry):
        names = entry if isinstance(entry, tuple) else (entry,)
        return entry if all(n in mesh.axis_names for n in names) else None

    return {k: P(*(keep(e) for e in SPECS.get(k, P()))) for k in SHAPES}


def _steps(tx, params, n=7):
    @jax.jit
    def step(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(tx.init)(params)
    for seed in range(1, n + 1):
        grads = jax.tree.map(lambda g, p: jax.device_put(g, p.sharding), _draw(seed), params)
        params, state = step(grads, state, params)
    return params, state, step


@functools.cache
def _alone(momentum, stagger):
    tx = shampoo_jax.shampoo(0.1, momentum=momentum, **grouped(stagger=stagger, **OPTIONS))
    return _steps(tx, _draw(0))[0]


def _assert_close(found, expected):
    for name, value in expected.items():
        scale = max(1.0, float(jnp.abs(value).max(initial=0)))
        np.testing.assert_allclose(found[name], value, atol=1e-6 * scale, rtol=0, err_msg=name)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize(
    "shape",
    [(1,), *(pytest.param(s, marks=pytest.mark.long) for s in ((2,), (4,))), (8,), (4, 2)],
    ids=str,
)
def test_replicated_parameters_give_the_same_result_on_any_mesh(shape, kind):
    mesh = _mesh(shape, kind)
    with jax.set_mesh(mesh):
        params = jax.device_put(_draw(0), NamedSharding(mesh, P()))
        found, _, _ = _steps(shampoo_jax.shampoo(0.1, **grouped(**OPTIONS)), params)
    _assert_close(found, _alone(0.0, True))


# Each mesh with both kinds of axes, one with each momentum; the other half with `make test-long`.
SHARDED = [
    pytest.param(
        *(shape, momentum, stagger, kind),
        id=f"{shape}-{momentum}-{kind.name}",
        marks=[pytest.mark.long] * ((i + j + k) % 2),
    )
    for i, shape in enumerate([(8,), (4, 2), (2, 4)])
    for j, (momentum, stagger) in enumerate([(0.5, False), (0.0, True)])
    for k, kind in enumerate([AxisType.Auto, AxisType.Explicit])
]


@pytest.mark.parametrize(("shape", "momentum", "stagger", "kind"), SHARDED)
def test_sharded_parameters_give_the_same_result(shape, momentum, stagger, kind):
    mesh = _mesh(shape, kind)
    specs = _specs(mesh)
    given = {"param_specs": specs} if kind == AxisType.Auto else {}
    tx = shampoo_jax.shampoo(0.1, momentum=momentum, **grouped(stagger=stagger, **given, **OPTIONS))
    with jax.set_mesh(mesh):
        params = {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in _draw(0).items()}
        found, _, _ = _steps(tx, params)
    for name, value in found.items():
        assert value.sharding.is_equivalent_to(NamedSharding(mesh, specs[name]), value.ndim)
    _assert_close(found, _alone(momentum, stagger))


STACKS = {"stack": (5, 32, 24), "experts": (3, 2, 24, 16)}  # their first axes
MANY = {f"layer{i}": (32, 24) for i in range(5)} | STACKS | SHAPES


def _stacked(path, leaf):
    first = {"stack": (0,), "experts": (0, 1)}.get(path[0])
    return None if first is None else DimensionNumbers(batch=first)


@pytest.mark.parametrize(
    ("shape", "axes", "momentum", "most", "kind"),
    [
        pytest.param((8,), None, 0.0, 1, AxisType.Auto, marks=pytest.mark.long),
        ((4, 2), None, 0.5, 2 * 4 * 32 * 24, AxisType.Explicit),
        ((4, 2), ("m",), 0.0, 1, AxisType.Auto),
    ],
)
def test_sharded_parameters_in_rounds_give_the_same_result(
    shape, axes, momentum, most, kind, monkeypatch
):
    """Loops over one or two of five equal layers, of layers of stacks, and what is left of them."""
    monkeypatch.setitem(globals(), "SHAPES", MANY)
    mesh = _mesh(shape, kind)
    layers = {name: P("d") for name in MANY if name.startswith("layer")}
    layers |= {"stack": P(None, None, "d"), "experts": P(None, None, "d")}
    specs, found = _specs(mesh) | layers, []
    for most_ in (2**30, most):
        how = {"mesh_axes": axes, "gather_bytes": most_}
        how |= {"param_specs": specs} if kind == AxisType.Auto else {}
        how |= {"momentum": momentum, "dimension_numbers": _stacked}
        tx = shampoo_jax.shampoo(0.1, **grouped(**how, **OPTIONS))
        with jax.set_mesh(mesh):
            drawn = _draw(0).items()
            params = {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in drawn}
            found.append(_steps(tx, params, n=4)[0])
    for name, value in found[1].items():
        assert value.sharding.is_equivalent_to(NamedSharding(mesh, specs[name]), value.ndim)
    _assert_close(found[1], found[0])


@pytest.mark.parametrize("stacked", [False, True])
def test_rounds_hold_a_part_of_the_memory_in_a_loop(stacked):
    mesh = _mesh((8,))
    params = {f"w{i}": jax.ShapeDtypeStruct((256, 256), jnp.float32) for i in range(24)}
    spec, rule = P("d"), None
    if stacked:
        params = {"w": jax.ShapeDtypeStruct((24, 256, 256), jnp.float32)}
        spec, rule = P(None, "d"), dimension_numbers.stacked("w")
    places = jax.tree.map(lambda _: NamedSharding(mesh, spec), params)
    whole = 24 * 256 * 256 * 4
    temporary, counts = {}, {}
    for most in (2**30, 2**19):
        how = {"param_specs": jax.tree.map(lambda own: own.spec, places), "gather_bytes": most}
        how |= OPTIONS | {"block_size": 64, "dimension_numbers": rule}
        tx = shampoo_jax.shampoo(0.1, **grouped(**how))
        with jax.set_mesh(mesh):
            state = jax.eval_shape(tx.init, params)
            given = (places, shampoo_jax.state_sharding(state, mesh), places)
            program = jax.jit(tx.update, in_shardings=given).lower(params, state, params).compile()
        temporary[most] = program.memory_analysis().temp_size_in_bytes
        counts[most] = _counts(program.as_text())
    assert temporary[2**30] > whole
    assert temporary[2**19] < temporary[2**30] / 2, temporary
    assert counts[2**30] == {"all-gather": 2}
    assert counts[2**19] == {"all-gather": 1, "reduce-scatter": 1}


VARIANTS = {
    "eigendecomposed": lambda **o: shampoo_jax.shampoo(0.1, **o, root=EIGENDECOMPOSED),
    "kl_shampoo": lambda **o: shampoo_jax.kl_shampoo(0.1, **o),
    "kl_soap": lambda **o: shampoo_jax.kl_soap(0.1, **o),
    "spectral": lambda **o: shampoo_jax.shampoo(0.1, **o, grafting=grafting.spectral(POLAR)),
    "averaged": lambda **o: averaged(shampoo_jax.shampoo(0.1, **o), 0.1, evaluation=0.9),
}


LATER = ("spectral", "kl_soap")  # whose parts other variants have


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.long] * (n in LATER)) for n in VARIANTS],
)
def test_variants_give_the_same_result_and_gather_once(name, x64):
    """In float64: rounding must not turn the bases of factors of less than full rank."""
    options = {"weight_decay": 0.01, "eps": 1e-2} if name != "averaged" else {"eps": 1e-2}
    options |= grouped(block_size=16, precondition_frequency=2, stagger=False)
    tx, mesh = VARIANTS[name](**options), _mesh((8,))
    params = {"w": _draw(0)["w"].astype(float), "b": _draw(0)["b"].astype(float)}

    def run(params):
        state, step = jax.jit(tx.init)(params), jax.jit(tx.update)
        for seed in range(1, 6):
            grads = {k: _draw(seed)[k].astype(float) for k in params}
            grads = jax.tree.map(lambda g, p: jax.device_put(g, p.sharding), grads, params)
            updates, state = step(grads, state, params)
            params = jax.tree.map(jnp.add, params, updates)
        return params

    alone = run(params)
    with jax.set_mesh(mesh):
        shared = jax.device_put(params, NamedSharding(mesh, P()))
        found = run(shared)
    for key, value in alone.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-9, err_msg=key)
    counts = _collectives(tx, shared, mesh)
    assert counts == {"all-gather": 1}


def _collectives(tx, params, mesh):
    """Return how often each collective stands in the compiled update."""
    with jax.set_mesh(mesh):
        state = jax.jit(tx.init)(params)
        text = jax.jit(tx.update).lower(params, state, params).compile().as_text()
    return _counts(text)


def _counts(text):
    kinds = ("all-gather", "all-to-all", "all-reduce", "collective-permute", "reduce-scatter")
    counts = {k: len(re.findall(rf" {k}(?:-start)?\(", text)) for k in kinds}
    return {kind: count for kind, count in counts.items() if count}


def test_one_all_gather_for_replicated_parameters():
    mesh = _mesh((4, 2))
    params = jax.device_put(_draw(0), NamedSharding(mesh, P()))
    counts = _collectives(shampoo_jax.shampoo(0.1, **grouped(**OPTIONS)), params, mesh)
    assert counts == {"all-gather": 1}


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_at_most_two_collectives_for_sharded_parameters(momentum):
    mesh = _mesh((4, 2))
    specs = _specs(mesh)
    params = {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in _draw(0).items()}
    tx = shampoo_jax.shampoo(0.1, momentum=momentum, **grouped(param_specs=specs, **OPTIONS))
    counts = _collectives(tx, params, mesh)
    assert counts == {"all-gather": 2}


def test_a_call_may_say_how_parameters_are_sharded():
    """Through wrappers too, one of which hides leaves."""
    mesh = _mesh((4, 2))
    specs = _specs(mesh)
    params = {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in _draw(0).items()}
    mine = {name: name != "b" for name in params}
    own = optax.masked(shampoo_jax.shampoo(0.1, **grouped(**OPTIONS)), mine)
    tx = optax.chain(optax.clip_by_global_norm(1.0), own)
    with jax.set_mesh(mesh):
        state = jax.jit(tx.init)(params)
        update = jax.jit(lambda *trees: tx.update(*trees, param_specs=specs))
        program = update.lower(params, state, params).compile()
        found, _ = program(params, state, params)
    expected, _ = jax.jit(tx.update)(_draw(0), tx.init(_draw(0)), _draw(0))
    _assert_close(found, expected)
    counts = _counts(program.as_text())
    assert counts["all-gather"] == 2
    with (
        jax.set_mesh(mesh),
        pytest.raises(ValueError, match=r"param_specs\['w'\]: expected a Part"),
    ):
        tx.update(params, state, params, param_specs={**specs, "w": None})


def test_state_is_sharded_and_state_sharding_says_so():
    mesh = _mesh((8,))
    tx = shampoo_jax.shampoo(0.1, **grouped(**OPTIONS))
    params = jax.device_put(_draw(0), NamedSharding(mesh, P()))
    with jax.set_mesh(mesh):
        state = jax.jit(tx.init)(params)
        shapes = jax.eval_shape(tx.init, params)
    expected = shampoo_jax.state_sharding(shapes, mesh)
    for x, s in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert x.sharding.is_equivalent_to(s, x.ndim)
    total = sum(x.nbytes for x in jax.tree.leaves(state))
    one = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))
    assert one <= total / 8 + 64


def test_more_devices_than_blocks():
    tx = shampoo_jax.shampoo(
        0.1, eps=1e-2, blocks=Blocks(block_size=16), refresh=Refresh(precondition_frequency=2)
    )
    params = {"w": jnp.arange(12.0).reshape(4, 3) / 7}

    def end(params):
        state = tx.init(params)
        for _ in range(5):
            updates, state = jax.jit(tx.update)(params, state, params)
            params = optax.apply_updates(params, updates)
        return params["w"]

    alone = end(params)
    mesh = _mesh((8,))
    with jax.set_mesh(mesh):
        shared = end(jax.device_put(params, NamedSharding(mesh, P())))
    np.testing.assert_allclose(shared, alone, atol=1e-6)


def test_gather_in_bfloat16_rounds_directions_only():
    mesh = _mesh((8,))
    params = jax.device_put(_draw(0), NamedSharding(mesh, P()))
    results = []
    for dtype in (None, jnp.bfloat16):
        tx = shampoo_jax.scale_by_shampoo(
            blocks=Blocks(block_size=16), sharding=Sharding(gather_dtype=dtype)
        )
        with jax.set_mesh(mesh):
            updates, state = jax.jit(tx.update)(params, jax.jit(tx.init)(params), params)
        results.append((updates, state))
    (exact, state), (rounded, same) = results
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(same)):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(rounded["w"], exact["w"], rtol=2**-8)
    assert not np.array_equal(rounded["w"], exact["w"])


def test_inside_the_callers_own_shard_map():
    mesh = _mesh((8,))
    tx = shampoo_jax.shampoo(0.1, **grouped(**OPTIONS))
    params = _draw(0)

    def loop(params, grads):
        state = tx.init(params)
        for g in grads:
            updates, state = tx.update(g, state, params)
            params = optax.apply_updates(params, updates)
        return params

    grads = [_draw(seed) for seed in range(1, 4)]
    run = jax.shard_map(loop, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    _assert_close(jax.jit(run)(params, grads), jax.jit(loop)(params, grads))


def test_an_unknown_axis_is_refused():
    mesh = _mesh((8,))
    tx = shampoo_jax.scale_by_shampoo(sharding=Sharding(mesh=mesh, mesh_axes=("model",)))
    with pytest.raises(ValueError, match=r"mesh_axes: expected axes .*, found 'model'"):
        tx.init(_draw(0))


def test_a_state_of_another_mesh_is_refused():
    tx = shampoo_jax.scale_by_shampoo(blocks=Blocks(block_size=16))
    state = tx.init(_draw(0))
    with jax.set_mesh(_mesh((8,))), pytest.raises(ValueError, match="must see the same mesh"):
        tx.update(_draw(1), state)


def test_one_device_alone_is_the_first():
    assert Devices(None, (), 1).index() == 0
