"""A run that is killed or stopped, then resumed, ends with the bits of one that never was."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

STAGES = ("adamw", "sgd")
PROGRAM = (sys.executable, "-m", "tests.experiments.tiny_problem")


def start(folder, *, delay=0.0):
    return subprocess.Popen(
        [*PROGRAM, str(folder), "--delay", str(delay)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder):
    process = start(folder)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def lines_of(folder):
    path = folder / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def signal_at(folder, number, *, lines, delay=0.05):
    """Start or resume, send a signal once metrics.jsonl has that many lines, return the exit."""
    process = start(folder, delay=delay)
    deadline = time.monotonic() + 120
    while len(lines_of(folder)) < lines:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def parameters(folder, stage):
    with np.load(folder / f"{stage}.npz") as arrays:
        return [arrays[name] for name in arrays.files]


def logged(folder):
    """What metrics.jsonl says, without times."""
    lines = [json.loads(line) for line in lines_of(folder)]
    return [{k: v for k, v in line.items() if not k.endswith("seconds")} for line in lines]


def assert_same_run(folder, reference):
    for stage in STAGES:
        for found, expected in zip(parameters(folder, stage), parameters(reference, stage)):
            np.testing.assert_array_equal(found, expected)
    assert logged(folder) == logged(reference)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume") / "reference"
    finish(folder)
    return folder


def test_kill_9_in_each_stage_resumes_to_the_same_bits(tmp_path, reference):
    folder = tmp_path / "killed"
    total = len(lines_of(reference))
    assert signal_at(folder, signal.SIGKILL, lines=5)[0] == -signal.SIGKILL
    assert signal_at(folder, signal.SIGKILL, lines=3 * total // 4)[0] == -signal.SIGKILL
    before = len(lines_of(folder))
    assert before < total
    finish(folder)
    assert_same_run(folder, reference)


def test_sigterm_and_ctrl_c_save_the_running_step_and_resume(tmp_path, reference):
    folder = tmp_path / "stopped"
    for number, lines in ((signal.SIGTERM, 4), (signal.SIGINT, 14)):
        code, errors = signal_at(folder, number, lines=lines)
        assert code == 128 + number
        assert f"continue with --resume {folder}" in errors
        assert "Traceback" not in errors
        newest = max(int(path.name) for path in (folder / "checkpoints/adamw").iterdir())
        assert newest == json.loads(lines_of(folder)[-1])["step"]
    finish(folder)
    assert_same_run(folder, reference)


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.long
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, reference):
    folder = tmp_path / "damaged"
    signal_at(folder, signal.SIGKILL, lines=12)
    steps = sorted(
        int(p.name) for p in (folder / "checkpoints/adamw").iterdir() if p.name.isdigit()
    )
    file = largest_file(folder / f"checkpoints/adamw/{steps[-1]}/params")
    whole = file.read_bytes()
    file.write_bytes(whole[:9] + bytes([whole[9] ^ 1]) + whole[10:])
    process = start(folder)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert errors == (
        f"{file}: expected the bytes that were saved, found others; "
        f"going on from step {steps[-2]}\n"
    )
    assert_same_run(folder, reference)


def test_without_a_whole_checkpoint_nothing_changes(tmp_path, reference):
    folder = tmp_path / "rotten"
    shutil.copytree(reference, folder)
    for step in (folder / "checkpoints/sgd").iterdir():
        largest_file(step / "params").unlink()
    before = tree(folder)
    process = start(folder)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.startswith(f"error: {folder}/checkpoints/sgd/24/params/")
    assert errors.endswith("found no such file; no other checkpoint of sgd is whole\n")
    assert len(errors.splitlines()) == 1
    lock = {folder / "run.lock"}
    assert {k: v for k, v in tree(folder).items() if k not in lock} == {
        k: v for k, v in before.items() if k not in lock
    }


DISK = """
mount -t tmpfs -o size={size} none "$1" || exit 77
if [ "{then}" = ro ]; then
    "$2" -m tests.experiments.tiny_problem "$1/run" --delay .05 &
    until [ -e "$1/run/checkpoints/adamw/8" ]; do sleep .02; done
    until mount -o remount,ro "$1" 2>"$4"; do :; done  # not while a file is open
    wait $!
else
    "$2" -m tests.experiments.tiny_problem "$1/run"
fi
code=$?
ls "$1/run/checkpoints/adamw" >&2
mount -o remount,rw,size=64m "$1" && "$2" -m tests.experiments.tiny_problem "$1/run" || exit 1
cp -r "$1/run" "$3"
exit $code
"""


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="no rights to mount a small disk",
)
@pytest.mark.parametrize(
    ("size", "then", "message"),
    [
        ("208k", "full", "No space left on device"),
        pytest.param("64m", "ro", "Read-only file system", marks=pytest.mark.long),
    ],
)
def test_a_full_and_a_read_only_disk_stop_in_one_line_and_resume(
    tmp_path, reference, size, then, message
):
    (tmp_path / "disk").mkdir()
    script = DISK.format(size=size, then=then)
    arguments = [str(tmp_path / "disk"), sys.executable, str(tmp_path / "run"), str(tmp_path / "e")]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
    )
    if done.returncode == 77:
        pytest.skip("no rights to mount a small disk")
    assert done.returncode == 2, done.stderr
    error, *kept = done.stderr.splitlines()
    assert error.startswith(f"error: {tmp_path}/disk/run") and message in error
    assert kept and all(name.isdigit() for name in kept)
    assert_same_run(tmp_path / "run", reference)


# A loss that keeps the main thread outside of Python for minutes, as a compiler does.
STUCK = """
import numpy
from tests.experiments import tiny_problem
plain = tiny_problem.loss
def stuck(params, batch, key):
    print("compiling", flush=True)
    numpy.linalg.svd(numpy.random.default_rng(0).normal(size=(9000, 9000)))
    return plain(params, batch, key)
tiny_problem.loss = stuck
tiny_problem.main()
"""


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
def test_a_signal_while_compiling_ends_the_process_and_the_last_checkpoint_stands(
    tmp_path, reference, number
):
    folder = tmp_path / "compiling"
    signal_at(folder, signal.SIGKILL, lines=8)
    before = tree(folder / "checkpoints")
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "compiling" in process.stdout.readline()
    time.sleep(2.0)
    os.kill(process.pid, number)
    start_of_wait = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - start_of_wait < 15
    assert process.returncode == 128 + number
    assert errors == f"stopped while compiling; continue with --resume {folder}\n"
    assert tree(folder / "checkpoints") == before
    finish(folder)
    assert_same_run(folder, reference)


def killed_at_random(folder, rng, *, moments):
    """Kill a run at drawn moments, most of which lie in a save; return how many it lived to."""
    for moment in range(moments):
        process, lines = start(folder), len(lines_of(folder))
        while len(lines_of(folder)) <= lines and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.3))
        process.kill()
        process.communicate(timeout=60)
        if process.returncode == 0:
            return moment
        assert process.returncode == -signal.SIGKILL
    return moments


def check_kills(folder, reference, *, seed, moments):
    assert killed_at_random(folder, np.random.default_rng(seed), moments=moments) >= 2
    finish(folder)
    assert_same_run(folder, reference)


@pytest.mark.long
def test_kill_9_at_drawn_moments_changes_no_bit(tmp_path, reference):
    check_kills(tmp_path / "killed", reference, seed=0, moments=3)


@pytest.mark.long
def test_kill_9_at_more_drawn_moments_changes_no_bit(tmp_path, reference):
    for seed in (1, 2, 3):
        check_kills(tmp_path / f"killed-{seed}", reference, seed=seed, moments=10)


def test_second_signal_aborts(tmp_path):
    process = start(tmp_path / "aborted", delay=30.0)
    while not (tmp_path / "aborted/checkpoints/adamw").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    assert process.stderr.readline() == "stopping after this step; a second signal aborts\n"
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
