"""The commands train what users import: the loop of a run and the built-in one are the same."""

import json

import jax
import numpy as np
import optax
import pytest

from experiments.harness.devices import make_mesh
from experiments.harness.options import OneSeed
from experiments.harness.run_folder import open_run
from experiments.tasks.next_item import StageLoop
from nxtpost_jax import NxtPostConfig, Recommender, evaluate, leave_one_out, model_scores
from nxtpost_jax.training import steps
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
        loop = StageLoop(run, "adamw", make_mesh(jax.devices()[:1]))
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


def losses():
    """The built-in loop's losses of an epoch, step by step."""
    recommender = Recommender(CONFIG, circle(np.arange(N)))
    posed = task(recommender.model, SPLIT.train, content=recommender.content, **HOW)
    state, where = steps.init(posed, TX), steps.placed(posed, TX)
    *_, (_, known) = steps.taken(posed, state, posed.batches(0), where=where)
    return known
