"""Drawn trees, options, wrappers and meshes: save, restore, continue equals the unbroken run.

    DRAWS=200 pytest tests/shampoo/test_checkpoint_property.py        # make test-long; default 6

In float64, eps far above its rounding: what may differ between meshes or paddings is the order in
which products are summed, 1e-16 relative, and roots with condition at most 100 carry that on. The
bases of SOAP, and eigenvalues that are tracked in a basis, are only determined where factors have
full rank, so that these forms draw matrices that few gradients fill.
"""

import os

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax.training.train_state import TrainState
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import shampoo_jax
from shampoo_jax import grafting
from tests.shampoo.grouped import grouped

SHAPES = [(5,), (9, 4), (4, 9), (3, 2, 7), (), (11, 10), (10,), (3, 3, 2, 4)]
FILLED = [(9, 4), (4, 9), (11, 10)]
KINDS = ["root_inverse", "eigendecomposed", "eigenvalue_corrected", "soap"]
BEFORE, AFTER = 5, 2  # MultiSteps is saved half-way

# A table: optax's own schedules are float32, rounded differently from one mesh to the next.
RATES = {"number": 0.1, "schedule": lambda count: jnp.linspace(0.1, 0.02, 9)[count]}
METHODS = {
    "auto": "auto",
    "none": None,
    "adagrad": grafting.adagrad(),
    "sgd": grafting.sgd(),
    "optax": optax.scale_by_adam(),
}
# At restoring: what only moves rows about, and what must be refused by name.
MOVES = [{}, {"max_pools": 1}, {"round_to": 3}, {"max_pools": 2, "round_to": 16}]
REFUSED = [
    {"block_size": 7},
    {"target_dimensionality": 3},
    {"exponents": lambda shape: (0.4,) * len(shape)},
    {"momentum": 0.25},
    {"factor_dtype": jnp.float32},
]


def _first(params):
    """True for all parameters but the first of several."""
    names = sorted(params)
    return {name: len(names) == 1 or name != names[0] for name in names}


def _labels(params):
    return {name: "most" if keep else "first" for name, keep in _first(params).items()}


def _wrapped(name, rate, options):
    def make(**other):
        return shampoo_jax.shampoo(rate, **grouped(**{**options, **other}))

    def multi_steps():
        steps = optax.MultiSteps(make(), every_k_schedule=2)
        return optax.GradientTransformation(steps.init, steps.update)

    rest = optax.with_extra_args_support(optax.adam(rate))
    return {
        "plain": make,
        "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), make(), optax.ema(0.5)),
        "masked": lambda: optax.masked(make(), _first),
        "partition": lambda: optax.partition({"most": make(), "first": rest}, _labels),
        "both": lambda: optax.multi_transform(
            {"most": make(), "first": make(b1=0.5, max_pools=3)}, _labels
        ),
        "multi_steps": multi_steps,
        "injected": lambda: optax.inject_hyperparams(shampoo_jax.shampoo)(
            rate, **grouped(**options)
        ),
        "train_state": make,
    }[name]()


WRAPPERS = [
    "plain",
    "chain",
    "masked",
    "partition",
    "both",
    "multi_steps",
    "injected",
    "train_state",
]


@st.composite
def cases(draw):
    options = {
        "block_size": draw(st.sampled_from([4, 6, 8, None])),
        "target_dimensionality": draw(st.sampled_from([1, 2, None])),
        "round_to": draw(st.sampled_from([1, 4, 8])),
        "max_pools": draw(st.sampled_from([1, 12])),
        "preconditioner": draw(st.sampled_from(KINDS)),
        "grafting": METHODS[draw(st.sampled_from(list(METHODS)))],
        "precondition_frequency": draw(st.integers(1, 3)),
        "stagger": draw(st.booleans()),
        "b1": draw(st.sampled_from([0.0, 0.8])),
        "momentum": draw(st.sampled_from([0.0, 0.5])),
        "weight_decay": draw(st.sampled_from([0.0, 0.1])),
        "factors": draw(st.sampled_from(["gram", "kl", "kl_sum"])),
        "eps": 1e-2,
    }
    keeps = shampoo_jax.Root(options["preconditioner"], factors=options["factors"]).keeps_spectra
    options["track_eigenvalues"] = keeps and draw(st.booleans())
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    if options["preconditioner"] == "soap" or options["track_eigenvalues"]:
        options |= {"block_size": None, "target_dimensionality": None}
        shapes = [shape for shape in shapes if shape in FILLED] or FILLED[:1]
    return {
        "shapes": shapes,
        "options": options,
        "wrapper": draw(st.sampled_from(WRAPPERS)),
        "rate": RATES[draw(st.sampled_from(list(RATES)))],
        "devices": (draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([1, 2, 4, 8]))),
        "move": draw(st.sampled_from(MOVES)),
        "refused": draw(st.one_of(st.none(), st.sampled_from(REFUSED))),
    }


def _mesh(n):
    return jax.make_mesh((n,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:n])


def _draw_tree(shapes, seed):
    rng = np.random.default_rng(seed)
    return {f"p/{i}": rng.normal(size=shape) for i, shape in enumerate(shapes)}


class _Run:
    """A transformation on a mesh: one compiled step, and the state that goes through it."""

    def __init__(self, case, devices, params, move=None):
        self.mesh = _mesh(devices)
        self.tx = _wrapped(case["wrapper"], case["rate"], {**case["options"], **(move or {})})
        self.shapes = case["shapes"]
        self.params = jax.device_put(params, NamedSharding(self.mesh, P()))
        with jax.set_mesh(self.mesh):
            self.state = jax.jit(self.tx.init)(self.params)
        self._step = jax.jit(self._take)

    def _take(self, grads, state, params):
        updates, state = self.tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def steps(self, seeds):
        for seed in seeds:
            grads = jax.device_put(_draw_tree(self.shapes, seed), NamedSharding(self.mesh, P()))
            with jax.set_mesh(self.mesh):
                self.params, self.state = self._step(grads, self.state, self.params)
        return jax.device_get(self.params)


def _kept(run, wrapper):
    """The state as its owner would keep it."""
    if wrapper != "train_state":
        return run.state
    whole = TrainState.create(apply_fn=lambda: None, params=run.params, tx=run.tx)
    return whole.replace(opt_state=run.state)


def _through_a_file(tree, folder):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "state")


DRAWS = int(os.environ.get("DRAWS", "6"))


@pytest.mark.slow
@pytest.mark.drawn
@pytest.mark.timeout(60 + 20 * DRAWS)
@hypothesis.settings(
    max_examples=DRAWS,
    deadline=None,
    database=None,
    derandomize="DRAWS" not in os.environ,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],
)
@hypothesis.given(case=cases())
def test_a_restored_run_continues_as_the_unbroken_one(case, tmp_path_factory):
    with jax.enable_x64(True):
        _check(case, tmp_path_factory.mktemp("state"))


def _check(case, folder):
    seeds = range(1, 1 + BEFORE), range(1 + BEFORE, 1 + BEFORE + AFTER)
    whole = _Run(case, case["devices"][0], _draw_tree(case["shapes"], 0))
    params = whole.steps(seeds[0])
    kept = _kept(whole, case["wrapper"])
    tree = shampoo_jax.to_canonical(kept, params)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(tree))
    expected = whole.steps(seeds[1])

    if case["wrapper"] != "train_state":  # its step, a plain array, needs no file to be tested
        tree = _through_a_file(tree, folder)
    refused = case["refused"]
    if refused:
        other = _Run(case, case["devices"][1], params, refused)
        _check_refused(tree, other, case, params, refused)
        return
    again = _Run(case, case["devices"][1], params, case["move"])
    state = shampoo_jax.from_canonical(tree, _kept(again, case["wrapper"]), params=params)
    again.state = state.opt_state if case["wrapper"] == "train_state" else state
    found = again.steps(seeds[1])
    same = case["devices"][0] == case["devices"][1] and not case["move"]
    for name, value in expected.items():
        if same:
            np.testing.assert_array_equal(found[name], value)
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-10)


def _check_refused(tree, other, case, params, refused):
    (name,) = refused
    if name == "momentum" and case["options"]["momentum"]:
        return  # the buffer is there: another coefficient is a choice, as another learning rate
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    if name in ("exponents", "factor_dtype") and not any("factors" in path for path in paths):
        return  # scalars whose shape is kept have no factor
    # Injected, a momentum that is on is a leaf of its own outside of ShampooState.
    message = rf"^{name}: expected .*, found |^tree: expected a leaf 'hyperparams/{name}'"
    with pytest.raises(ValueError, match=message):
        shampoo_jax.from_canonical(tree, _kept(other, case["wrapper"]), params=params)
