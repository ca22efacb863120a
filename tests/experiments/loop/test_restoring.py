"""A run that stopped on some devices goes on on others: same state, same order of data."""

import math

import chex
import jax
import optax
import pytest

import shampoo_jax
from experiments.harness.devices import make_mesh
from experiments.harness.options import OneSeed
from experiments.harness.run_folder import open_run, read_metrics
from experiments.loop.sharding import fsdp
from shampoo_jax import Blocks, Refresh
from shampoo_jax.state import ShampooState, find_states
from tests.experiments import tiny_problem
from tests.experiments.tiny_problem import STEPS, train_tiny

SHAMPOO = optax.chain(
    optax.clip_by_global_norm(1.0),
    shampoo_jax.shampoo(1e-2, eps=1e-3, blocks=Blocks(block_size=8), refresh=Refresh(3)),
)
FSDP = [("kernel", fsdp("data", min_size=0))]
MOVES = [("2", "8"), ("1", "4 x 2"), ("4 x 2", "4"), ("8", "1")]
MESHES = {
    **{f"{n}": ((n,), ("data",)) for n in (1, 2, 4, 8)},
    "4 x 2": ((4, 2), ("data", "other")),
}


@pytest.fixture
def run(tmp_path):
    with open_run("tiny_problem", OneSeed(out=tmp_path / "run"), arguments=()) as run:
        yield run


class Stopped(Exception):
    """Ends a training behind its first epoch."""


def stopping(epoch):
    if epoch:
        raise Stopped
    return tiny_problem.batches(epoch)


def train_on(run, name, **changes):
    shape, axes = MESHES[name]
    mesh = make_mesh(jax.devices()[: math.prod(shape)], shape=shape, axes=axes)
    return train_tiny(run, mesh=mesh, epochs=2, **{"tx": SHAMPOO, **changes})


def canonical(result):
    return jax.device_get(result.params), shampoo_jax.to_canonical(result.opt_state, result.params)


def more(*values):
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.parametrize(
    ("before", "after"), [("4 x 2", "2"), more("8", "1"), more("1", "4 x 2"), more("8", "4")]
)
def test_the_state_comes_back_bit_by_bit_on_other_devices(run, before, after):
    finished = train_on(run, before)
    again = train_on(run, after)
    chex.assert_trees_all_equal(canonical(again), canonical(finished))
    pool = find_states(again.opt_state, ShampooState)[0].pools[0]
    assert pool.last_refresh.sharding.mesh.size == math.prod(MESHES[after][0])


@pytest.mark.parametrize(
    ("before", "after", "rules"),
    [
        pytest.param("8", "2", (), marks=pytest.mark.long),
        ("4", "1", FSDP),
        *(more(before, after, rules) for before, after in MOVES for rules in ((), FSDP)),
    ],
)
def test_a_run_goes_on_on_other_devices_as_if_it_had_not_stopped(run, before, after, rules):
    whole = train_on(run, before, stage="whole", rules=rules)
    with pytest.raises(Stopped):
        train_on(run, before, batches=stopping, rules=rules)
    moved = train_on(run, after, rules=rules)
    assert moved.steps == 2 * STEPS
    chex.assert_trees_all_close(canonical(moved)[0], canonical(whole)[0], rtol=1e-3, atol=1e-5)
    lines = read_metrics(run.folder / "metrics.jsonl")
    losses = {
        stage: [line["loss"] for line in lines if line["stage"] == stage and "loss" in line]
        for stage in ("whole", "adamw")
    }
    assert losses["adamw"] == pytest.approx(losses["whole"], rel=1e-4)
