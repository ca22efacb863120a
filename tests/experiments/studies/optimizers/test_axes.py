"""One choice at a time: every setting differs from the default and trains."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.studies.optimizers import axes
from experiments.studies.optimizers.axes import AXES, DEFAULT, Varied, tables_of_axes
from experiments.studies.optimizers.factories import make_optimizer
from experiments.studies.optimizers.spaces import Point
from experiments.studies.optimizers.trials import Trained

POINT = Point(rate=0.01, weight_decay=0.0, b1=0.9, b2=0.95, other_rate=0.01)
# The first setting of every axis; the others with `make test-long`.
SETTINGS = [
    pytest.param(axis, name, marks=[pytest.mark.long] if i else [])
    for axis, own in AXES.items()
    for i, name in enumerate(own)
]


def descend(setting, steps=24):
    """Parameters of a drawn least squares problem after some steps."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(64, 160)), draw.normal(size=(64, 20))
    params = {"w": jnp.zeros((160, 20)), "b": jnp.zeros(20)}

    def loss(params):
        return jnp.mean((x @ params["w"] + params["b"][None] - y) ** 2)

    tx = make_optimizer(setting.factory, POINT, steps=steps)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, float(loss(params))


@pytest.fixture(scope="module")
def default():
    return descend(DEFAULT)


@pytest.mark.parametrize(("axis", "name"), SETTINGS)
def test_a_setting_is_another_optimizer_than_the_default(axis, name, default):
    params, loss = descend(AXES[axis][name])
    assert loss < 1.05
    distance = optax.tree.norm(optax.tree.sub(params, default[0])) / optax.tree.norm(default[0])
    if name == "eigendecomposed":  # the same roots, kept as their parts
        assert distance < 1e-2
    else:
        # Epsilon is a constant of the same program: nothing but itself can change the result.
        assert distance > (0 if axis.startswith("epsilon") else 1e-4)


def trained(*losses):
    history = [{"step": 10 * (i + 1), "validation_loss": y} for i, y in enumerate(losses)]
    return Trained({}, history)


def test_a_setting_is_judged_at_its_own_best_rate():
    worst = [trained(5, 5, 5, 5)]
    diverged, fast = [trained(5, 5, 5, float("nan"))], [trained(2, 2, 1, 1)]
    default = Varied({0.5: [trained(5, 4, 3, 2)], 1.0: worst, 2.0: worst}, 9.0)
    other = Varied({0.5: diverged, 1.0: fast, 2.0: worst}, 9.0)
    found = {"default": {"default": default}, "colour": {"red": other}}
    (table,) = tables_of_axes(found, seeds=1)
    assert table.title == "Colour"
    assert table.baselines == [["default", "0.5, 1, 2", 0.5, "2", None, None]]
    assert table.rows == [["red", "0.5, 1, 2", 1.0, "1", "-1.0000 \u00b1 nan", 30.0]]


def test_multiples_go_on_where_the_best_is_outermost():
    runs = {multiple: [trained(loss)] for multiple, loss in ((0.5, 3), (1.0, 2), (2.0, 4))}
    assert Varied(runs, 9.0).further() is None
    assert Varied(runs | {0.5: [trained(1)]}, 9.0).further() == 0.25
    assert Varied(runs | {2.0: [trained(1)]}, 9.0).further() == 4.0
    tens = {multiple: [trained(loss)] for multiple, loss in ((30.0, 1), (100.0, 2), (300.0, 4))}
    assert Varied(tens, 9.0).further() == 9.0


def test_the_difference_has_the_error_of_both():
    own = Varied({1.0: [trained(1), trained(3)]}, 9.0)
    default = Varied({1.0: [trained(5), trained(5)]}, 9.0)
    assert own.above(default) == (-3.0, pytest.approx(1.0))


def test_a_setting_is_trained_on_until_its_best_is_inside():
    """A trainer whose losses fall with the rate down to a quarter of the chosen one."""

    class Falling:
        task = SimpleNamespace(chance=9.0)

        def train(self, stage, *, factory, point, seed):
            del factory, seed
            stages.append(stage)
            return trained(abs(np.log2(4 * point.rate)))

    stages = []
    point = Point(rate=1.0, weight_decay=0.0, b1=0.9, b2=0.99, other_rate=1e-3)
    varied = axes.at_multiples(Falling(), "x", DEFAULT, point=point, seeds=[0])
    assert sorted(varied.runs) == [0.125, 0.25, 0.5, 1.0, 2.0] and varied.best == 0.25
    assert stages[-1] == "x-0.125-0"
