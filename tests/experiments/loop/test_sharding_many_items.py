"""A softmax over a million items whose table lies on eight devices by rows trains as on one."""

import jax
import numpy as np
import optax
import pytest

from experiments.harness.devices import make_mesh
from experiments.loop.sharding import rules_of, shard_batch
from experiments.loop.train_step import CompiledStep, init_state, make_step, state_layout
from nxtpost_jax import NxtPost, NxtPostConfig, Objective, Sequences, task

N, LENGTH, WIDTH, STEPS = 1_000_000, 4, 8, 3
CONFIG = NxtPostConfig(
    d_model=WIDTH, num_layers=1, max_len=LENGTH, id_embedding=True, dropout=0.0, time_features=False
)


def posed(objective):
    """Every item occurs once, so that all are candidates."""
    items = np.random.default_rng(0).permutation(N)
    log = Sequences(items, np.arange(0, N + 1, LENGTH))
    return task(NxtPost(CONFIG, N), log, objective=objective, batch_size=16, seed=3)


def trained(posed, devices):
    """Losses, parameters on the host, and the bytes of parameters and optimizer on each device."""
    # Linear in the gradient, where Adam divides by its size: the components of a label's gradient
    # that are 0 but for roundings would become whole steps.
    mesh, tx = make_mesh(jax.devices()[:devices]), optax.sgd(1e-2, momentum=0.9)
    with jax.set_mesh(mesh):
        layout = state_layout(posed.init, tx, mesh=mesh, rules=rules_of("rows"))
        state = init_state(posed.init, tx, layout=layout, seed=3)
        step = CompiledStep(make_step(posed.loss, tx, seed=3), mesh=mesh)
        losses, batches = [], posed.batches(0)
        for _ in range(STEPS):
            batch = shard_batch(next(batches), mesh)
            if not step.knows(batch):
                step.learn(state, batch)
            state, scalars = step(state, batch)
            losses.append(float(scalars["loss"]))
        held = {device: 0 for device in mesh.devices.flat}
        for leaf in jax.tree.leaves((state.params, state.opt_state)):
            for shard in leaf.addressable_shards:
                held[shard.device] += shard.data.nbytes
        return losses, jax.device_get(state.params), list(held.values())


@pytest.mark.long
@pytest.mark.parametrize(
    "objective",
    [
        Objective(loss="full_softmax", chunk=65_536),
        Objective(negatives="uniform", num_negatives=512, logq=True),
    ],
    ids=["full", "sampled"],
)
def test_a_million_items_by_rows_train_as_on_one_device(objective):
    one, eight = (trained(posed(objective), devices) for devices in (1, 8))
    print(f"bytes per device: {one[2][0]:,} on one, {max(eight[2]):,} on eight")
    np.testing.assert_allclose(eight[0], one[0], rtol=1e-4)
    assert one[0][0] != one[0][-1]
    for found, expected in zip(jax.tree.leaves(eight[1]), jax.tree.leaves(one[1]), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
    table = 2 * 4 * N * WIDTH  # parameters and momentum, float32
    assert table < one[2][0] < 1.01 * table
    assert max(eight[2]) < 1.01 * table / 8
