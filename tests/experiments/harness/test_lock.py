"""Two runs in one folder: the second is refused, and no lock outlives its process."""

import os
import signal
import subprocess
import sys

import pytest

from experiments.harness.errors import InputError
from experiments.harness.lock import LOCK, FolderLock, check_free
from experiments.harness.options import OneSeed
from experiments.harness.run_folder import open_run

HOLD = """
import sys, time
from pathlib import Path
from experiments.harness.options import OneSeed
from experiments.harness.run_folder import open_run
with open_run("toy", OneSeed(**{sys.argv[2]: Path(sys.argv[1])}), arguments=()) as run:
    run.log("stage", 1, loss=1.0)
    print("open", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def held(tmp_path):
    """The folder of a run, and how another process opens it and stays."""
    processes = []

    def hold(flag="out"):
        command = [sys.executable, "-c", HOLD, str(tmp_path / "run"), flag]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout.readline() == "open\n"
        return processes[-1]

    yield tmp_path / "run", hold
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_second_run_is_refused_until_the_first_process_is_killed(held):
    folder, hold = held
    process = hold()
    before = files(folder)
    for flag in ("resume", "out"):
        expected = f"--{flag} .*: expected a folder of no other run, found process {process.pid} at"
        with pytest.raises(InputError, match=expected):
            open_run("toy", OneSeed(**{flag: folder}), arguments=())
        assert files(folder) == before
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process = hold("resume")
    with pytest.raises(InputError, match=f"found process {process.pid} at work in it"):
        open_run("toy", OneSeed(resume=folder), arguments=())
    assert files(folder)["metrics.jsonl"].count(b"\n") == 2


def test_a_run_that_ended_leaves_its_folder_free(tmp_path):
    folder = tmp_path / "run"
    for flag in ("out", "resume"):
        with (
            open_run("toy", OneSeed(**{flag: folder}), arguments=()),
            pytest.raises(InputError, match=f"found process {os.getpid()} at work in it"),
        ):
            open_run("toy", OneSeed(resume=folder), arguments=())
        check_free(folder, flag="--out")
    assert (folder / LOCK).read_text() == str(os.getpid())


def test_two_new_runs_at_once_leave_one(tmp_path):
    """The other one looked before the first had made its files."""
    first = FolderLock(tmp_path, flag="--out")
    with pytest.raises(InputError, match=r"--out .*: expected a folder of no other run"):
        FolderLock(tmp_path, flag="--out")
    first.release()
    FolderLock(tmp_path, flag="--out").release()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(InputError, match="expected a folder that can be written, found no such"):
        FolderLock(tmp_path / "gone", flag="--resume")
