"""Trials: the same points for all, more for all while one's best is outermost."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.harness.devices import make_mesh
from experiments.harness.errors import InputError
from experiments.harness.options import Options
from experiments.harness.run_folder import open_run, read_metrics
from experiments.studies.optimizers import trials
from experiments.studies.optimizers.options import Digits
from experiments.studies.optimizers.spaces import SPACES, cube_points
from experiments.studies.optimizers.trial_log import open_trial_log
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


def trainer_in(folder, *earlier):
    run = open_run("test", Options(out=folder), arguments=())
    log = open_trial_log(run, earlier)
    return Trainer(run, regression(), make_mesh(jax.devices()[:1]), 16, 4, log)


@pytest.fixture
def trainer(tmp_path):
    return trainer_in(tmp_path / "run")


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


def test_a_second_seed_of_the_best_decides_for_all_alike(trainer, tmp_path, monkeypatch):
    names = ("sgd", "adamw")
    first = {"sgd": [4, 1, 2, 3], "adamw": [5, 2, 9, 1.9]}  # no best one is outermost
    later = {"sgd": [5, 2], "adamw": [1.8, 3.0]}  # of places 1, 2 and 3, 1
    stages = []

    def end_at(self, stage, *, seed, **how):
        name, kind, number = stage.split("-")
        stages.append((stage, seed))
        loss = float({"trial": first, "finalist": later}[kind][name][int(number)])
        return trials.Trained({}, [{"step": 16, "validation_loss": loss}])

    monkeypatch.setattr(Trainer, "train", end_at)
    monkeypatch.setattr(trials, "MOST_EXTENSIONS", 0)
    trainer = dataclasses.replace(trainer, task=dataclasses.replace(trainer.task, chance=7.0))
    found = search(trainer, names, trials=4, seed=97, finalists=2)
    assert found["sgd"].again == {1: 5, 2: 2} and found["sgd"].best == 2
    assert found["adamw"].again == {3: 1.8, 1: 3.0} and found["adamw"].best == 3
    assert found["sgd"].losses == [4, 1, 2, 3]  # few trials are of one seed
    assert [stage for stage in stages if stage[1] == 98] == [
        (f"{name}-finalist-{n}", 98) for name in names for n in (0, 1)
    ]
    # A new run takes both seeds from the file, whatever its own number of finalists was.
    monkeypatch.setattr(Trainer, "train", None)
    again = search(
        trainer_in(tmp_path / "later", trainer.run.folder / "trials.jsonl"),
        names,
        trials=4,
        seed=97,
        finalists=2,
    )
    assert {name: own.best for name, own in again.items()} == {"sgd": 2, "adamw": 3}


def test_the_second_seed_is_none_of_the_fresh_ones():
    Digits(trial_seed=97, finalists=2)
    Digits(seed=98, finalists=1)
    with pytest.raises(InputError, match="--trial-seed: expected a seed outside of 98 to 102, and"):
        Digits(seed=98, finalists=2)


def test_a_finished_trial_is_not_trained_again(trainer):
    point = trials.point_of("adamw", cube_points(2)[0])
    how = {"factory": trials.FACTORIES["adamw"], "point": point, "seed": 0}
    first = trainer.train("a", **how)
    lines = read_metrics(trainer.run.folder / "metrics.jsonl")
    again = trainer.train("a", **how)
    assert again.history == first.history
    assert read_metrics(trainer.run.folder / "metrics.jsonl") == lines


def lines_of(run):
    return (run.folder / "trials.jsonl").read_text().splitlines()


def test_trials_of_an_earlier_run_are_not_trained_again(trainer, tmp_path, monkeypatch):
    first = search(trainer, ("sgd", "adamw"), trials=2, seed=0)
    lines = lines_of(trainer.run)
    earlier = trainer.run.folder / "trials.jsonl"
    monkeypatch.setattr(Trainer, "train", None)  # whoever trains fails
    later = trainer_in(tmp_path / "later", earlier)
    again = search(later, ("adamw", "sgd"), trials=2, seed=0)
    assert all(again[name].losses == first[name].losses for name in first)
    with pytest.raises(TypeError):  # of another seed nothing is known
        search(later, ("sgd",), trials=2, seed=1)
    assert len(lines) == 1 + sum(len(own.losses) for own in first.values())


def test_a_new_run_goes_on_with_what_several_have_tried(trainer, tmp_path):
    search(trainer, ("sgd",), trials=2, seed=0)
    other = trainer_in(tmp_path / "other")
    search(other, ("adamw",), trials=2, seed=0)
    files = [run.folder / "trials.jsonl" for run in (trainer.run, other.run)]
    both = trainer_in(tmp_path / "both", *files)
    assert not read_metrics(both.run.folder / "metrics.jsonl")
    search(both, ("sgd", "adamw"), trials=2, seed=0)
    stages = {line["stage"] for line in read_metrics(both.run.folder / "metrics.jsonl")}
    assert not stages & {f"{name}-trial-{i}" for name in ("sgd", "adamw") for i in range(2)}
    assert set(lines_of(both.run)) >= {*lines_of(trainer.run), *lines_of(other.run)}


@pytest.mark.parametrize(
    ("number", "text", "message"),
    [
        (0, "{", "line 1: expected a JSON object, found '{'"),
        (0, '{"settings": 3}', "line 1: expected trials by this run's settings and versions, fo"),
        (1, "[]", "line 2: expected a JSON object, found '[]'"),
        (1, '{"optimizer": "sgd"}', "line 2: expected an optimizer, a seed, coordinates and a fin"),
    ],
)
def test_a_file_of_other_trials_is_refused(trainer, tmp_path, number, text, message):
    search(trainer, ("sgd",), trials=2, seed=0)
    lines = lines_of(trainer.run)
    lines[number] = text
    (tmp_path / "changed.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=re.escape(message)):
        trainer_in(tmp_path / "later", tmp_path / "changed.jsonl")
