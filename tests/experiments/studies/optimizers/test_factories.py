"""Optimizers of the comparison: what the schedule scales, and what Muon reads as matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.models.character_model import CharacterModel
from experiments.models.resnet import ResNet
from experiments.studies.optimizers.factories import FACTORIES, make_optimizer, muon_dimensions
from experiments.studies.optimizers.spaces import Point

POINT = Point(rate=0.1, weight_decay=0.03, b1=0.9, b2=0.95, other_rate=0.02)
PARAMS = {"dense": {"kernel": jnp.full((4, 3), 0.5)}, "head": {"kernel": jnp.full((3, 2), 0.5)}}
GRADS = jax.tree.map(lambda p: 0.1 * jnp.ones_like(p), PARAMS)


def run(tx, count=6):
    step = jax.jit(tx.update)
    state, params = tx.init(PARAMS), PARAMS
    for _ in range(count):
        updates, state = step(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_the_schedule_is_the_rate_times_its_shape():
    steps = 6
    shape = optax.warmup_cosine_decay_schedule(0.0, 0.1, 1, steps)
    plain = optax.adamw(shape, b1=0.9, b2=0.95, weight_decay=0.03)
    ours = make_optimizer(FACTORIES["adamw"], POINT, steps=steps)
    clipped = optax.chain(optax.clip_by_global_norm(1.0), plain)
    for a, b in zip(jax.tree.leaves(run(ours)), jax.tree.leaves(run(clipped))):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] * (name in ("soap", "kl_shampoo")))
        for name in FACTORIES
    ],
)
def test_every_optimizer_descends_by_its_point(name):
    small = POINT._replace(rate=POINT.rate / 2, other_rate=POINT.other_rate / 2)
    moved = [
        float(optax.tree.norm(optax.tree.sub(run(tx), PARAMS)))
        for tx in (make_optimizer(FACTORIES[name], p, steps=8) for p in (POINT, small))
    ]
    after = run(make_optimizer(FACTORIES[name], POINT, steps=8))
    assert all(jnp.all(leaf < 0.5) for leaf in jax.tree.leaves(after))
    assert moved[0] == pytest.approx(2 * moved[1], rel=0.1)


def test_trials_of_an_optimizer_are_one_program():
    def program(point):
        tx = make_optimizer(FACTORIES["shampoo"], point, steps=8)
        return jax.jit(tx.update).lower(GRADS, tx.init(PARAMS), PARAMS).as_text()

    assert program(POINT) == program(POINT._replace(rate=0.3, b1=0.8, b2=0.99, weight_decay=0.1))


def dimensions(model, x):
    found = muon_dimensions(jax.eval_shape(model.init, jax.random.key(0), x))
    leaves = jax.tree_util.tree_leaves_with_path(
        found, is_leaf=lambda x: x is None or isinstance(x, optax.contrib.MuonDimensionNumbers)
    )
    return {"/".join(key.key for key in path[1:]): leaf for path, leaf in leaves if leaf}


def test_muon_reads_convolutions_as_matrices_from_inputs_to_outputs():
    found = dimensions(ResNet(width=8), jnp.ones((1, 8, 8, 3)))
    assert found["block_0_0/conv_1/kernel"] == ((2, 0, 1), (3,))
    assert not {"stem/kernel", "head/kernel", "norm/scale"} & set(found)


def test_muon_reads_attention_as_matrices():
    model = CharacterModel(7, width=8, layers=1, heads=2, length=6)
    found = dimensions(model, jnp.zeros((1, 6), jnp.int32))
    assert found["attention_0/query/kernel"] == ((0,), (1, 2))
    assert found["attention_0/out/kernel"] == ((0, 1), (2,))
    assert found["up_0/kernel"] == ((0,), (1,))
    assert not {"characters/embedding", "positions", "head/kernel"} & set(found)
