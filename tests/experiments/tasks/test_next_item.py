"""The commands train what users import: the loop of a run and the built-in one are the same."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.harness.devices import make_mesh
from experiments.harness.errors import InputError
from experiments.harness.options import OneSeed
from experiments.harness.run_folder import open_run
from experiments.loop.training import TrainResult
from experiments.tasks import next_item
from experiments.tasks.next_item import Problem, StageLoop
from experiments.tasks.nxtpost_training import NxtPostOptions, train_one
from nxtpost_jax import NxtPostConfig, Recommender, evaluate, leave_one_out, model_scores
from nxtpost_jax.serving.learning import AVERAGE
from nxtpost_jax.training import averages, steps
from nxtpost_jax.training.objective import Objective
from nxtpost_jax.training.task import task
from tests.nxtpost.small_recommender import N, circle, cycles

TX = optax.adamw(1e-2)
CONFIG = NxtPostConfig.default(d_model=8, num_layers=1, max_len=8, block="transformer")
SPLIT = leave_one_out(cycles(48))
HOW = {"batch_size": 4, "buckets": 1, "objective": Objective(), "seed": 5}


def fitted(loop=None):
    recommender = Recommender(CONFIG, circle(np.arange(N)), tx=TX)
    records = recommender.fit(SPLIT.train, epochs=1, validation=SPLIT.validation, loop=loop, **HOW)
    return recommender, records


@pytest.fixture
def as_users_compile():
    """With XLA's passes: without them a program for a mesh of one device is rounded otherwise."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.usefixtures("as_users_compile")
@pytest.mark.long
def test_both_loops_end_in_the_same_bits(tmp_path):
    with open_run("drawn", OneSeed(out=tmp_path / "run"), arguments=()) as run:
        loop = StageLoop(run, "adamw", make_mesh(jax.devices()[:1]), average=AVERAGE)
        by_run, history = fitted(loop)
    built_in, records = fitted()
    for a, b in zip(*(jax.tree.leaves(each.params) for each in (by_run, built_in))):
        np.testing.assert_array_equal(a, b)
    ranked = by_run.evaluate(SPLIT.test, bootstrap=0).values  # what commands report, users get
    scores = model_scores(built_in.model, built_in.params, content=built_in.content)
    assert ranked == evaluate(scores, SPLIT.test, max_len=CONFIG.max_len, bootstrap=0).values
    assert [r["ndcg@10"] for r in history] == [r["ndcg@10"] for r in records]
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    logged = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert len(logged) > 1
    own = losses()
    assert logged == {step: own[step - 1] for step in logged}


def test_a_command_averages_as_fit_does(monkeypatch):
    """The weight that reaches the loop of a run is that of the built-in one."""
    told = {}

    def train(*unused, average, init_params, **more):
        told.update(average=average)
        return TrainResult(init_params(jax.random.key(0)), None, None, [], 0, 0.0, 0.0, None)

    monkeypatch.setattr(next_item, "train", train)
    problem = Problem(SPLIT, N, circle(np.arange(N)), np.arange(N, dtype=np.int32), {})
    options = NxtPostOptions(average=0.2, batch_size=4)
    how = {"config": CONFIG, "optimizer": "adamw", "stage": "adamw", "seed": 0, "mesh": None}
    train_one(None, problem, options=options, **how)
    params = {"w": jnp.float32(0)}
    average = averages.begun(params, share=0.2)
    for step, value in enumerate((2.0, 4.0, 1.0), start=1):
        before = average.params["w"]
        average = averages.moved(average, {"w": jnp.float32(value)})
        weight = told["average"](jnp.int32(step))
        np.testing.assert_array_equal(before + weight * (value - before), average.params["w"])
    train_one(None, problem, options=NxtPostOptions(batch_size=4), **how)
    assert told["average"] is None
    with pytest.raises(InputError, match=r"--average: expected a share in \[0, 0.5\], found 0.6"):
        NxtPostOptions(average=0.6)


def losses():
    """The built-in loop's losses of an epoch, step by step."""
    recommender = Recommender(CONFIG, circle(np.arange(N)))
    posed = task(recommender.model, SPLIT.train, content=recommender.content, **HOW)
    state, where = steps.init(posed, TX), steps.placed(posed, TX)
    *_, (_, known) = steps.taken(posed, state, posed.batches(0), where=where)
    return known
