"""Trials: the same points for all, more for all while one's best is outermost."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.harness.devices import make_mesh
from experiments.harness.options import Options
from experiments.harness.run_folder import open_run, read_metrics
from experiments.studies.optimizers import trials
from experiments.studies.optimizers.spaces import SPACES, cube_points
from experiments.studies.optimizers.trials import Trainer, search
from experiments.tasks.learning_task import LearningTask

TARGETS = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)


def regression():
    """A linear layer between first and last, fitted to drawn numbers."""

    def loss(params, batch, key):
        del key
        return jnp.mean((batch["x"] @ params["dense"]["kernel"] - batch["y"]) ** 2), {}

    def batches(first, count, seed):
        for step in range(first, first + count):
            rows = np.random.default_rng((seed, step)).permutation(64)[:16]
            yield {"x": TARGETS[rows] @ np.eye(3, 4, dtype=np.float32), "y": TARGETS[rows]}

    whole = {"x": TARGETS @ np.eye(3, 4, dtype=np.float32), "y": TARGETS}
    score = jax.jit(lambda params: loss(params, whole, None)[0])
    return LearningTask(
        init_params=lambda key: {"dense": {"kernel": jnp.zeros((4, 3))}},
        loss=loss,
        batches=batches,
        validate=lambda params: {"loss": float(score(params))},
        test=lambda params: {"loss": float(score(params))},
        chance=1.5,
        figure="",
        intro="",
        split="",
    )


@pytest.fixture
def trainer(tmp_path):
    run = open_run("test", Options(out=tmp_path / "run"), arguments=())
    return Trainer(run, regression(), make_mesh(jax.devices()[:1]), 16, 4)


def test_a_run_learns_and_a_shorter_one_ends_its_schedule_earlier(trainer):
    point = trials.point_of("adamw", np.array([1.0, 0, 0.5, 0.5, 0.5]))
    how = {"factory": trials.FACTORIES["adamw"], "point": point, "seed": 0}
    whole, half = trainer.train("a", **how), trainer.train("b", **how, length=0.5)
    assert whole.steps == [4, 8, 12, 16] and half.steps == [4, 8]
    assert whole.end("loss") < half.end("loss") < 1.0
    assert whole.curve("loss")[1] != half.curve("loss")[1]
    rates = [optax.tree.norm(run.params) for run in (whole, half)]
    assert rates[1] < rates[0]


def test_all_optimizers_get_the_same_trials_and_extensions(trainer, monkeypatch):
    names = ("sgd", "adamw")
    losses = {"sgd": iter([3, 1, 2, 5, 9, 9, 9]), "adamw": iter([1, 5, 5, 5, 0.5, 0.4, 9])}

    def end_at(self, stage, **how):
        loss = float(next(losses[stage.split("-")[0]]))
        return trials.Trained({}, [{"step": 16, "validation_loss": loss}])

    monkeypatch.setattr(Trainer, "train", end_at)
    monkeypatch.setattr(trials, "cube_points", lambda count: np.sort(cube_points(count), axis=0))
    trainer = dataclasses.replace(trainer, task=dataclasses.replace(trainer.task, chance=7.0))
    found = search(trainer, names, trials=4, seed=0)
    # AdamW's best of the first four has the smallest rate: one more for both, and once more.
    assert [len(own.losses) for own in found.values()] == [6, 6]
    for name in names:
        np.testing.assert_array_equal(found[name].coordinates[:4, 0], (0.125, 0.375, 0.625, 0.875))
    np.testing.assert_allclose(found["adamw"].coordinates[4:, 0], (-0.125, -0.375))
    assert found["adamw"].best == 5 and found["adamw"].is_on_edge
    assert found["sgd"].best == 1 and not found["sgd"].is_on_edge
    assert found["sgd"].losses[4:] == [7.0, 7.0]  # no worse than knowing nothing
    assert found["adamw"].chosen.rate == pytest.approx(SPACES["adamw"].rate * 1000**-0.875)


def test_a_finished_trial_is_not_trained_again(trainer):
    point = trials.point_of("adamw", cube_points(2)[0])
    how = {"factory": trials.FACTORIES["adamw"], "point": point, "seed": 0}
    first = trainer.train("a", **how)
    lines = read_metrics(trainer.run.folder / "metrics.jsonl")
    again = trainer.train("a", **how)
    assert again.history == first.history
    assert read_metrics(trainer.run.folder / "metrics.jsonl") == lines
