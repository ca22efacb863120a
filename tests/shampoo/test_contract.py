"""What optax expects of a transformation, with optax.adam as the control."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import shampoo_jax
from shampoo_jax import Blocks
from tests.shampoo.grouped import grouped


def _shampoo(learning_rate=0.1, **options):
    return shampoo_jax.shampoo(
        learning_rate, **grouped(block_size=8, precondition_frequency=2, **{"eps": 1e-3, **options})
    )


def _soap(learning_rate=0.1, **options):
    return shampoo_jax.soap(
        learning_rate, **grouped(block_size=8, precondition_frequency=2, **options)
    )


def _kl_shampoo(learning_rate=0.1, **options):
    return shampoo_jax.kl_shampoo(
        learning_rate, **grouped(block_size=8, precondition_frequency=2, **options)
    )


def _adam(learning_rate=0.1):
    return optax.adam(learning_rate)


OPTIMIZERS = {"shampoo": _shampoo, "soap": _soap, "kl_shampoo": _kl_shampoo, "adam": _adam}
both = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def _params(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return {
        "w": jnp.asarray(rng.normal(size=(10, 6)), dtype),
        "b": jnp.asarray(rng.normal(size=(5,)), dtype),
        "s": jnp.asarray(1.5, dtype),
        "empty": jnp.zeros((0, 3), dtype),
    }


def _loss(params):
    return sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(params))


def _types(tree):
    return jax.tree.map(lambda x: (x.shape, jnp.dtype(x.dtype)), tree)


def _jitted(tx):
    """The same transformation as two programs: one by one its operations compile far longer."""
    return optax.GradientTransformation(jax.jit(tx.init), jax.jit(tx.update))


@pytest.mark.parametrize("make", [_shampoo, _soap])
def test_updates_without_jit_are_the_same(make):
    tx, params = make(), _params()
    ends = []
    for own in (tx, _jitted(tx)):
        state = own.init(params)
        for _ in range(2):
            updates, state = own.update(params, state, params)
        ends.append(updates)
    for a, b in zip(*map(jax.tree.leaves, ends)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@both
def test_converges_inside_scan(make):
    tx = make(0.05)
    params = _params()

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(_loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), _loss(params)

    (params, _), losses = jax.jit(lambda p, s: lax.scan(step, (p, s), length=120))(
        params, jax.jit(tx.init)(params)
    )
    assert losses[-1] < 0.05 * losses[0]


@both
def test_accepts_unexpected_extra_args(make):
    tx = optax.with_extra_args_support(make())

    def update(params):
        return tx.update(params, tx.init(params), params, value=1.0, unheard_of="x")

    updates, _ = jax.eval_shape(update, _params())
    assert _types(updates) == _types(_params())


@both
def test_no_recompilation_after_the_first_step(make):
    tx, params, traces = make(), _params(), []

    @jax.jit
    def step(grads, state, params):
        traces.append(1)
        return tx.update(grads, state, params)

    state = jax.jit(tx.init)(params)
    for _ in range(3):
        _, state = step(params, state, params)
    assert len(traces) == 1


@both
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_updates_have_the_dtype_of_parameters_and_state_is_type_stable(make, dtype):
    if make is _adam and dtype == jnp.float16:
        pytest.skip("optax.adam itself gives NaN in float16: its eps rounds to 0")
    tx, params = _jitted(make()), _params(dtype)
    state = tx.init(params)
    updates, new = tx.update(params, state, params)
    assert _types(updates) == _types(params)
    assert _types(new) == _types(state)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(updates))


@pytest.mark.parametrize("make", [_shampoo, _soap])
def test_statistics_are_float32_for_half_precision(make):
    state = jax.eval_shape(make().init, _params(jnp.bfloat16))
    kinds = {x.dtype for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)}
    assert kinds == {jnp.dtype(jnp.float32)}


@both
def test_map_params(make):
    tx, params = make(), _params()
    state = jax.jit(tx.init)(params)
    mapped = optax.tree.map_params(tx, lambda x: x, state)
    assert jax.tree.structure(mapped) == jax.tree.structure(state)


@both
def test_init_on_shapes_only(make):
    tx = make()
    shapes = jax.eval_shape(lambda: _params())
    assert _types(jax.eval_shape(tx.init, shapes)) == _types(jax.jit(tx.init)(_params()))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("shampoo", {"b1": 0.8, "b2": 0.9, "eps": 1e-2, "weight_decay": 0.1, "momentum": 0.5}),
        ("soap", {"b1": 0.8, "b2": 0.9, "eps": 1e-6, "weight_decay": 0.1}),
        ("kl_shampoo", {"b1": 0.8, "b2": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
        ("kl_soap", {"b1": 0.8, "b2": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
    ],
)
def test_injected_hyperparameters_give_the_same_updates(name, values, x64):
    fixed = grouped(block_size=8, precondition_frequency=2)
    factory = getattr(shampoo_jax, name)
    plain = factory(0.1, **values, **fixed)
    injected = optax.inject_hyperparams(factory)(learning_rate=0.1, **values, **fixed)
    # In float64: a constant and a traced value round differently, and SOAP divides noise by noise
    # where a factor is rank-deficient.
    params = _params(jnp.float64)
    ends = []
    for tx in (_jitted(plain), _jitted(injected)):
        p, state = params, tx.init(params)
        for _ in range(4):
            updates, state = tx.update(params, state, p)
            p = optax.apply_updates(p, updates)
        ends.append(p)
    for a, b in zip(jax.tree.leaves(ends[0]), jax.tree.leaves(ends[1])):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_injected_hyperparameters_on_a_mesh(kind):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(kind,))
    injected = optax.inject_hyperparams(shampoo_jax.shampoo)
    options = grouped(weight_decay=0.1, momentum=0.5, block_size=8, precondition_frequency=2)
    ends = []
    for make in (injected, shampoo_jax.shampoo):
        tx = make(0.1, **options)
        with jax.set_mesh(mesh):
            params = jax.device_put(_params(), NamedSharding(mesh, P()))
            updates, _ = jax.jit(tx.update)(params, jax.jit(tx.init)(params), params)
        ends.append(updates)
    np.testing.assert_allclose(ends[0]["w"], ends[1]["w"], rtol=1e-5)


@both
def test_multi_steps(make):
    tx, params = _jitted(optax.MultiSteps(make(), every_k_schedule=2)), _params()
    state = tx.init(params)
    first, state = tx.update(params, state, params)
    second, state = tx.update(params, state, params)
    assert optax.tree.norm(first) == 0
    assert optax.tree.norm(second) > 0
    assert state.gradient_step == 1


@both
def test_under_cond(make):
    tx, params = make(), _params()
    state = jax.jit(tx.init)(params)

    @jax.jit
    def maybe(flag, state):
        return lax.cond(flag, lambda s: tx.update(params, s, params)[1], lambda s: s, state)

    assert _types(maybe(True, state)) == _types(state)


@both
def test_schedules(make):
    params = _params()
    schedule = _jitted(make(lambda count: jnp.where(count == 0, 0.0, 0.1)))
    state = schedule.init(params)
    first, state = schedule.update(params, state, params)
    second, state = schedule.update(params, state, params)
    assert optax.tree.norm(first) == 0
    assert optax.tree.norm(second) > 0


@both
def test_masked_groups_none_leaves_and_everything_masked(make):
    params = {**_params(), "frozen": None}
    for keep in (False, True):
        tx = _jitted(optax.masked(make(), lambda p, keep=keep: jax.tree.map(lambda _: keep, p)))
        state = tx.init(params)
        updates, new = tx.update(params, state, params)
        assert updates["frozen"] is None
        assert _types(new) == _types(state)
    labels = {k: "a" for k in _params()}
    tx = _jitted(optax.partition({"a": make(), "b": make()}, labels))
    params = _params()
    updates, _ = tx.update(params, tx.init(params), params)
    assert _types(updates) == _types(params)


@both
def test_apply_if_finite(make):
    tx, params = _jitted(optax.apply_if_finite(make(), 3)), _params()
    bad = jax.tree.map(lambda x: x * jnp.nan, params)
    state = tx.init(params)
    updates, state = tx.update(bad, state, params)
    assert state.total_notfinite == 1
    updates, state = tx.update(params, state, params)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(updates))


@both
def test_donation(make):
    tx, params = make(), _params()
    state = jax.jit(tx.init)(params)
    step = jax.jit(lambda s, p: tx.update(p, s, p)[1], donate_argnums=0)
    new = step(state, params)
    assert all(x.is_deleted() for x in jax.tree.leaves(state) if x.ndim > 0 and x.size > 0)
    assert _types(new) == _types(step(new, params))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@both
def test_state_types_are_the_same_before_and_after_on_a_mesh(make, kind):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        params = jax.device_put(_params(), NamedSharding(mesh, P()))
        tx = make()
        state = jax.jit(tx.init)(params)
        updates, new = jax.jit(tx.update)(params, state, params)
    assert jax.tree.map(jax.typeof, new) == jax.tree.map(jax.typeof, state)
    assert jax.tree.map(jax.typeof, updates) == jax.tree.map(jax.typeof, params)


def test_a_missing_gradient_skips_its_blocks_and_counts_the_step():
    tx, params = _jitted(_shampoo(weight_decay=0.1)), _params()
    state = tx.init(params)
    updates, state = tx.update({**params, "w": None}, state, params)
    assert optax.tree.norm(updates["w"]) == 0
    assert optax.tree.norm(updates["b"]) > 0
    assert state[0].count == 1


def test_integer_and_complex_leaves_are_refused():
    for dtype in (jnp.int32, jnp.complex64):
        with pytest.raises(
            ValueError, match=r"params\['w'\]: expected a real floating-point array, found "
        ):
            _shampoo().init({"w": jnp.zeros((3, 2), dtype)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"b1": 1.0}, r"b1: expected a number in \[0, 1\), found 1.0"),
        ({"b2": -0.1}, r"b2: expected a number in \[0, 1\], found -0.1"),
        ({"eps": -1.0}, r"eps: expected a number in \[0, inf\), found -1.0"),
        ({"precondition_frequency": 0}, "precondition_frequency: expected an integer >= 1, found"),
        ({"statistics_frequency": 2.0}, "statistics_frequency: expected an integer >= 1, found"),
        ({"block_size": 0}, "block_size: expected an integer >= 1 or None, found 0"),
        ({"block_size": "auto"}, "block_size: expected an integer >= 1 or None, found 'auto'"),
        ({"grafting": "adam"}, "grafting: expected 'auto', None or a method .*, found 'adam'"),
        ({"grafting": shampoo_jax.grafting.adam}, "grafting: expected .*, found <function adam"),
        ({"preconditioner": "kfac"}, "preconditioner: expected one of .*, found 'kfac'"),
        ({"factors": "fisher"}, "factors: expected one of .*, found 'fisher'"),
        ({"track_eigenvalues": True}, "track_eigenvalues: expected False unless .*, found True"),
        (
            {"track_eigenvalues": True, "preconditioner": "soap"},
            "track_eigenvalues: expected False unless .*, found True",
        ),
        ({"trace_scaling": -1.0}, r"trace_scaling: expected a number in \[0, inf\), found -1.0"),
        ({"trace_scaling": "half"}, "trace_scaling: expected a number or None, found 'half'"),
        (
            {"stagger": False, "start_preconditioning_step": 3},
            "start_preconditioning_step: expected at least precondition_frequency",
        ),
        ({"nesterov": True}, "nesterov: expected False without momentum, found True"),
        ({"b1": 0.0, "b3": 0.5}, "b3: expected None when b1 is 0, found 0.5"),
        ({"factor_dtype": jnp.int32}, "factor_dtype: expected float32, float64 or None, found"),
        ({"max_pools": 0}, "max_pools: expected an integer >= 1, found 0"),
        ({"gather_bytes": 0}, "gather_bytes: expected an integer >= 1, found 0"),
        ({"factor_dtype": jnp.bfloat16}, "factor_dtype: expected float32, float64 or None, found"),
        ({"factor_limit": -1.0}, r"factor_limit: expected a number in \[0, inf\], found -1.0"),
        ({"b2": optax.constant_schedule(0.9)}, "b2: expected a number; for a schedule, optax.inj"),
        (
            {"eps": optax.constant_schedule(0.9)},
            "eps: expected a number; for a schedule, optax.inj",
        ),
        (
            {"blocks": {"block_size": 8}},
            "blocks: expected a shampoo_jax.Blocks, found {'block_size",
        ),
        ({"sharding": "data"}, "sharding: expected a shampoo_jax.Sharding, found 'data'"),
        ({"solver": "eigh"}, "solver: expected a function or None, found 'eigh'"),
        ({"max_residual": 0.0}, "max_residual: expected a positive number, found 0.0"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        shampoo_jax.scale_by_shampoo(**grouped(**options))


def test_grafting_decay_out_of_range_is_refused():
    for method in (shampoo_jax.grafting.adam, shampoo_jax.grafting.rmsprop):
        with pytest.raises(ValueError, match=r"b2: expected a number in \[0, 1\) .*, found 1.0"):
            method(b2=1.0)


def test_a_plain_sum_of_statistics_still_moves():
    tx, params = _jitted(shampoo_jax.shampoo(0.1, b2=1.0)), {"w": jnp.ones((4, 3))}
    updates, _ = tx.update(params, tx.init(params), params)
    assert optax.tree.norm(updates) > 0


def test_any_elementwise_transformation_grafts():
    params = _params()
    ends = []
    for method in (optax.scale_by_adam(b1=0.0), shampoo_jax.grafting.adam()):
        tx = _jitted(_shampoo(b1=0.0, grafting=method))
        state, p = tx.init(params), params
        for _ in range(3):
            updates, state = tx.update(params, state, p)
            p = optax.apply_updates(p, updates)
        ends.append(p)
    np.testing.assert_allclose(ends[0]["w"], ends[1]["w"], rtol=1e-4)


def test_exponents_of_a_wrong_length_are_refused():
    tx = shampoo_jax.scale_by_shampoo(blocks=Blocks(exponents=lambda shape: (0.5,)))
    with pytest.raises(ValueError, match="exponents: expected one non-negative number per dim"):
        tx.init({"w": jnp.zeros((300, 270))})


def test_unknown_decay_type_and_missing_peak_are_refused():
    with pytest.raises(ValueError, match="decay_type: expected one of"):
        shampoo_jax.shampoo(0.1, decay_type="none")
    with pytest.raises(ValueError, match="peak_learning_rate: expected a number"):
        shampoo_jax.shampoo(lambda t: 0.1, decay_type="corrected")
