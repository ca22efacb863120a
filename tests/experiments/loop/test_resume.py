"""A run that is killed or stopped, then resumed, ends with the bits of one that never was."""

import json
import os
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
