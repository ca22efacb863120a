"""Each kind of fault notices what goes wrong: here a run that breaks one promise at a time."""

import functools
import shutil
import signal

import numpy as np
import pytest

from experiments.studies.faults import disks, files, moments, site, trying
from experiments.studies.faults.disks import failing
from experiments.studies.faults.files import damaged
from experiments.studies.faults.signals import signalled

KILL = functools.partial(signalled, number=signal.SIGKILL, moment=moments.training)
KILL_IN_SAVE = functools.partial(signalled, number=signal.SIGKILL, moment=moments.saving)
TERM = functools.partial(signalled, number=signal.SIGTERM, moment=moments.training)
FULL = functools.partial(failing, disk=disks.full, moment=moments.training)
READ_ONLY = functools.partial(failing, disk=disks.read_only, moment=moments.training)
GONE = functools.partial(failing, disk=disks.vanished, moment=moments.training)
NEWEST = functools.partial(damaged, harm=files.newest_checkpoint)
ALL = functools.partial(damaged, harm=files.all_checkpoints)


@pytest.fixture(scope="module", autouse=True)
def fake_run():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site, "MODULE", "tests.experiments.studies.faults.fake_run")
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory, fake_run):
    return trying.prepared(tmp_path_factory.mktemp("faults") / "faults", seed=0)


@pytest.mark.parametrize(
    ("attempt", "again"),
    [
        pytest.param(KILL, range(6), id="kill"),
        pytest.param(KILL_IN_SAVE, range(6), id="kill in a save"),
        pytest.param(TERM, range(1), id="SIGTERM"),
        pytest.param(FULL, range(6), id="full"),
        pytest.param(READ_ONLY, range(6), id="read-only"),
        pytest.param(GONE, range(6), id="gone"),
        pytest.param(NEWEST, range(1, 6), id="newest checkpoint"),
    ],
)
def test_a_run_that_keeps_its_promises_survives(place, attempt, again):
    trial = attempt(place, np.random.default_rng(0))
    assert trial.ended == "same bits", trial
    assert trial.again in again and 0 <= trial.seconds < 60


def test_damage_to_all_checkpoints_is_refused(place):
    trial = ALL(place, np.random.default_rng(1))
    assert trial.ended == "refused" and trial.again is None and trial.seconds > 0, trial


@pytest.mark.parametrize(
    ("wrong", "attempt", "found"),
    [
        ("forgets", KILL, "another state"),
        ("deaf", TERM, "no exit code 143 by SIGTERM"),
        ("shouts", READ_ONLY, "no line with exit code 2"),
        ("anew", GONE, "is there again"),
        ("blind", NEWEST, "another state"),
        ("shouts", ALL, "neither refused nor gone on with"),
    ],
)
def test_a_run_that_breaks_a_promise_does_not(place, monkeypatch, wrong, attempt, found):
    monkeypatch.setenv("FAKE", wrong)
    trial = attempt(place, np.random.default_rng(0))
    assert trial.ended == "neither" and found in trial.found


def test_a_second_session_reads_what_the_first_has_tried(tmp_path, monkeypatch, fake_run):
    run = type("Run", (), {"folder": tmp_path})()
    counts = trying.Counts(kills=2, stops=0, disks=0, files=0, others=0, pairs=0)
    first = list(trying.try_all(run, counts=counts, seed=0))
    assert [each.name for each in first] == ["kill -9", "kill -9 in a save"]
    assert [each.survived for each in first] == [1, 1]
    assert not (tmp_path / "faults").exists()
    monkeypatch.setattr(trying, "prepared", None)
    assert list(trying.try_all(run, counts=counts, seed=0)) == first


def test_what_a_broken_trial_leaves_stays(tmp_path, monkeypatch, fake_run):
    monkeypatch.setenv("FAKE", "shouts")
    run = type("Run", (), {"folder": tmp_path})()
    counts = trying.Counts(kills=0, stops=0, disks=1, files=0, others=0, pairs=0)
    kinds = list(trying.try_all(run, counts=counts, seed=0))
    assert not any(kind.survived for kind in kinds)
    assert len(list((tmp_path / "faults").glob("trial-*"))) == len(kinds)
    shutil.rmtree(tmp_path / "faults")
