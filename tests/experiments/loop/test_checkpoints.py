"""A checkpoint is whole or is passed over by name; a save that fails leaves those before."""

import gc
import logging
import re
import resource
import shutil
import sys

import chex
import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from experiments.harness.devices import make_mesh
from experiments.harness.errors import InputError
from experiments.harness.options import OneSeed
from experiments.harness.run_folder import open_run
from experiments.loop.checkpoints import Checkpoints
from experiments.loop.train_step import state_layout
from experiments.studies.faults.damage import damage_folder, files_of, flipped
from tests.experiments import tiny_problem
from tests.experiments.tiny_problem import train_tiny

STEPS = (6, 8)  # what one epoch with a checkpoint every 3 steps leaves


@pytest.fixture(autouse=True)
def loud():
    """After a save that failed orbax is quiet for good; the tests that follow are not."""
    hook, loggers = sys.unraisablehook, [logging.getLogger(n) for n in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    yield
    gc.collect()
    sys.unraisablehook = hook
    for logger, level in zip(loggers, levels):
        logger.setLevel(level)


@pytest.fixture
def run(tmp_path):
    with open_run("tiny_problem", OneSeed(out=tmp_path / "run"), arguments=()) as run:
        yield run


class Stage:
    """The checkpoints of a trained stage, and what they hold."""

    def __init__(self, folder):
        self.folder = folder
        mesh = make_mesh(jax.devices()[:1])
        self.layout = state_layout(tiny_problem.init_params, optax.adamw(1e-2), mesh=mesh)
        self.config = None

    def open(self):
        mesh = make_mesh(jax.devices()[:1])
        return Checkpoints(self.folder, config=self.config, mesh=mesh)

    def state(self, checkpoints, step):
        restored = (
            checkpoints.restore_params(step, like=self.layout.params),
            checkpoints.restore_opt_state(step, like=self.layout.opt_state),
            checkpoints.read_record()["progress"],
        )
        return jax.device_get(restored)


@pytest.fixture
def stage(run):
    """Two checkpoints, the states they hold, and a copy of them to damage."""
    train_tiny(run, epochs=1)
    stage = Stage(run.checkpoint_folder("adamw"))
    stage.config = run.config
    stage.states = {}
    newest = stage.folder / "8"
    for step in reversed(STEPS):
        with stage.open() as checkpoints:
            assert checkpoints.latest_step == step
            stage.states[step] = stage.state(checkpoints, step)
        if step == 8:
            newest.rename(run.folder / "8")
    (run.folder / "8").rename(newest)
    return stage


def damage(stage, draw):
    """Damage one file of the newest checkpoint in a drawn way."""
    return damage_folder(stage.folder / "8", draw, other=stage.folder / "6")


def resumed(stage, capsys):
    """Open the stage and check that it holds what was saved; return the step."""
    with stage.open() as checkpoints:
        step = checkpoints.latest_step
        chex.assert_trees_all_equal(stage.state(checkpoints, step), stage.states[step])
    errors = capsys.readouterr().err
    if step == 6:
        place = re.escape(str(stage.folder / "8"))
        assert re.fullmatch(rf"{place}\S*: expected .+, found .+; going on from step 6\n", errors)
    else:
        assert errors == ""
    return step


def check_flips(stage, capsys, rng, *, flips):
    """One bit of the array files, which hold the parameters and the optimizer's state."""
    arrays = [file for file in files_of(stage.folder / "8") if file.parent.name == "d"]
    for _ in range(flips):
        file = rng.choice(arrays)
        whole = file.read_bytes()
        file.write_bytes(flipped(whole, int(rng.integers(len(whole))), int(rng.integers(8))))
        assert resumed(stage, capsys) == 6
        file.write_bytes(whole)
    assert resumed(stage, capsys) == 8


def check_damages(stage, capsys, rng, *, damages):
    whole = stage.folder.parent / "whole"
    shutil.copytree(stage.folder / "8", whole)
    unnoticed = 0
    for _ in range(damages):
        done = damage(stage, rng)
        if resumed(stage, capsys) == 8:  # it had been the same bytes
            assert done.file.read_bytes() == done.before and done.kind != "more"
            unnoticed += 1
        shutil.rmtree(stage.folder / "8")
        shutil.copytree(whole, stage.folder / "8")
    assert unnoticed <= damages // 5


def test_a_damaged_checkpoint_is_never_another_state(stage, capsys):
    rng = np.random.default_rng(0)
    check_flips(stage, capsys, rng, flips=10)
    check_damages(stage, capsys, rng, damages=10)


@pytest.mark.long
def test_no_damaged_checkpoint_of_many_is_another_state(stage, capsys):
    rng = np.random.default_rng(1)
    check_flips(stage, capsys, rng, flips=134)
    check_damages(stage, capsys, rng, damages=500)


def test_a_checkpoint_in_the_place_of_another_is_passed_over(stage, capsys):
    shutil.rmtree(stage.folder / "8")
    shutil.copytree(stage.folder / "6", stage.folder / "8")
    assert resumed(stage, capsys) == 6
    other = stage.folder.parent / "sgd"
    stage.folder.rename(other)
    stage.folder = other
    with pytest.raises(InputError, match=r"expected the digests of sgd/8.*no other checkpoint of"):
        resumed(stage, capsys)


def test_a_damaged_checkpoint_of_the_best_epoch_ends_the_resume(run):
    values = iter([0.9, 0.1, 0.2])
    train_tiny(run, evaluate=lambda params: {"score": next(values)}, select="score")
    best = run.checkpoint_folder("adamw") / "8"
    (best / "record.json").write_text("{}")
    with pytest.raises(InputError, match=r"/8/record.json: .* others; no other checkpoint of"):
        train_tiny(run, select="val_loss")


def test_a_passed_over_checkpoint_is_replaced_by_the_resumed_run(run, capsys):
    first = train_tiny(run)
    folder = run.checkpoint_folder("adamw")
    (folder / "24/record.json").write_text("{}")
    again = train_tiny(run)
    assert "going on from step 21" in capsys.readouterr().err
    trees = [(result.params, result.opt_state) for result in (first, again)]
    chex.assert_trees_all_equal(*jax.device_get(trees))
    assert sorted(path.name for path in folder.iterdir()) == ["21", "24"]
    train_tiny(run)
    assert capsys.readouterr().err == ""


def without_room(limit, *, at):
    """Batches of the tiny problem, with a limit on the size of files from one of them on."""

    def batches(epoch):
        for i, batch in enumerate(tiny_problem.batches(epoch)):
            if (epoch, i) == at:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            yield batch

    return batches


@pytest.mark.parametrize(
    "limit", [0, 300, *(pytest.param(n, marks=pytest.mark.long) for n in (150, 1000))]
)
def test_a_save_without_room_leaves_the_checkpoints_before(run, limit, capfd):
    """Whatever it fails at: at 1,000 bytes the digests alone do not fit."""
    whole = train_tiny(run, stage="whole", log_every=100)
    capfd.readouterr()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(InputError, match=r"cut/12: cannot be saved \(File too large\)"):
            train_tiny(run, stage="cut", log_every=100, batches=without_room(limit, at=(1, 2)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Traceback" not in capfd.readouterr().err
    folder = run.checkpoint_folder("cut")
    kept = {path.name for path in folder.iterdir() if not path.name.startswith(".writing-")}
    assert kept == {"6", "9"}  # a late thread of orbax may leave what the next save removes
    resumed = train_tiny(run, stage="cut", log_every=100)
    trees = [(result.params, result.opt_state) for result in (whole, resumed)]
    chex.assert_trees_all_equal(*jax.device_get(trees))


def test_a_vanished_run_folder_ends_the_run_in_one_line(tmp_path):
    def batches(epoch):
        for i, batch in enumerate(tiny_problem.batches(epoch)):
            if i == 5:
                shutil.rmtree(tmp_path / "run")
            yield batch

    for log_every in (1, 100):  # found out by a line of the log, by a save
        with (
            pytest.raises(InputError, match=r"run.*: cannot be .*\(No such file or directory\)"),
            open_run("tiny_problem", OneSeed(out=tmp_path / "run"), arguments=()) as run,
        ):
            train_tiny(run, batches=batches, log_every=log_every)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_folder_that_vanishes_in_a_save_is_not_made_again(tmp_path, monkeypatch, when):
    """By orbax, which makes whatever folders a file needs."""
    folder, save = tmp_path / "run", ocp.Checkpointer.save

    def vanishing(self, path, args):
        if when == "before":
            folder.rename(tmp_path / "away")
        save(self, path, args=args)
        if when == "after":
            folder.rename(tmp_path / "away")

    monkeypatch.setattr(ocp.Checkpointer, "save", vanishing)
    with (
        pytest.raises(InputError, match=r"adamw/3: cannot be saved \(No such file or directory\)"),
        open_run("tiny_problem", OneSeed(out=folder), arguments=()) as run,
    ):
        train_tiny(run)
    assert not folder.exists()
