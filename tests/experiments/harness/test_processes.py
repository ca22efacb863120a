"""Several processes of one run give what one process gives, and end together."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import digits
from experiments.harness.errors import InputError
from experiments.harness.options import ManySeeds, parse
from experiments.harness.processes import check_joining
from experiments.harness.supervise import AGAIN, LOST
from experiments.studies.faults.processes import child_of, free_port
from tests.experiments.tasks import ranked_by_processes

EPOCHS = 5  # of four steps
RATE = 1e-3  # slow enough that roundings stay what they are
STAGES = (f"digits-adamw@{RATE}-0", f"digits-shampoo@{RATE}-0")


def start(*arguments, epochs=EPOCHS, devices=4, host=()):
    return subprocess.Popen(
        [
            *host,
            *(sys.executable, "-m", "experiments.digits", "--preset", "smoke"),
            *("--epochs", str(epochs), "--devices", str(devices)),
            *("--learning-rates", str(RATE), *map(str, arguments)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_pair(*arguments, address="127.0.0.1", hosts=((), ()), **how):
    joined = ("--coordinator", f"{address}:{free_port()}", "--num-processes", 2, *arguments)
    return [start(*joined, "--process-id", i, host=host, **how) for i, host in enumerate(hosts)]


def finish(*processes, seconds=120):
    """Return the exit codes, outputs and errors."""
    try:
        ended = [process.communicate(timeout=seconds) for process in processes]
    except subprocess.TimeoutExpired:
        for process in processes:
            process.kill()
        pytest.fail(f"not ended: {[process.communicate() for process in processes]}")
    return [(p.returncode, *texts) for p, texts in zip(processes, ended)]


def lines_of(folder):
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def losses(folder, stage):
    own = [line for line in lines_of(folder) if line["stage"] == stage]
    return np.array([line["loss"] for line in own if "loss" in line])


def wait_for_lines(folder, count, processes):
    deadline = time.monotonic() + 120
    while len(lines_of(folder)) < count:
        assert all(p.poll() is None for p in processes), finish(*processes)
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes") / "alone"
    ((code, _, errors),) = finish(start("--out", folder))
    assert code == 0, errors
    return folder


def assert_same_run(folder, reference):
    for stage in STAGES:
        found, expected = losses(folder, stage), losses(reference, stage)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert len(lines_of(folder)) == len(lines_of(reference))
    figures = [json.loads((f / "summary.json").read_text()) for f in (folder, reference)]
    for part in ("metrics", "baselines"):
        found, expected = (
            {k: v for k, v in f[part].items() if "seconds" not in k} for f in figures
        )
        assert found == expected


def test_two_processes_give_the_losses_of_one(tmp_path, alone):
    folder = tmp_path / "pair"
    first, second = finish(*start_pair("--out", folder))
    assert first[0] == second[0] == 0, (first, second)
    assert "run folder" in first[1]
    assert second[1] == "" and second[2] == ""
    assert_same_run(folder, alone)


def test_each_of_two_processes_answers_a_share_and_has_all_answers(tmp_path):
    """Ranks by a model whose parameters lie on the devices of both, and searches of an index."""
    where = f"127.0.0.1:{free_port()}"
    words = (sys.executable, "-m", "tests.experiments.tasks.ranked_by_processes", where)
    outs = [tmp_path / f"{process}.npz" for process in range(2)]
    pair = [
        subprocess.Popen(
            [*words, str(process), str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process, out in enumerate(outs)
    ]
    ended = finish(*pair)
    assert [code for code, _, _ in ended] == [0, 0], ended
    alone = ranked_by_processes.figures(*ranked_by_processes.drawn())
    assert len(set(alone["ranks"].tolist())) > 20
    searched, asked = ranked_by_processes.searched()
    assert asked.tolist() == [31, 31]
    assert searched["index costs"][0] < searched["exact costs"][0] == 400
    for out, share in zip(outs, (15, 16)):
        with np.load(out) as found:
            assert found["asked"].tolist() == [share, share]
            for name, expected in searched.items():
                np.testing.assert_allclose(found[name], expected, rtol=1e-6, err_msg=name)
            np.testing.assert_array_equal(found["ranks"], alone["ranks"])
            np.testing.assert_array_equal(found["values"], alone["values"])


HOSTS = """
set -e
for name in one two; do
    ip netns add test-$name
    ip -n test-$name link set lo up
    mkdir -p /etc/netns/test-$name
    printf '10.77.0.1 one\\n10.77.0.2 two\\n127.0.0.1 localhost\\n' > /etc/netns/test-$name/hosts
done
ip link add here netns test-one type veth peer name there netns test-two
ip -n test-one addr add 10.77.0.1/24 dev here
ip -n test-two addr add 10.77.0.2/24 dev there
ip -n test-one link set here up
ip -n test-two link set there up
"""
NO_HOSTS = """
for name in one two; do ip netns del test-$name; rm -rf /etc/netns/test-$name; done
"""


@pytest.fixture
def hosts():
    """Words that start a command on one of two hosts: namespaces of the network, and a wire."""
    made = subprocess.run(["sh", "-c", HOSTS], capture_output=True, text=True)
    try:
        if made.returncode:
            pytest.skip(f"no rights to make hosts: {made.stderr.strip()}")
        named = 'hostname $0 && exec "$@"'
        yield [
            ("ip", "netns", "exec", f"test-{name}", "unshare", "--uts", "sh", "-c", named, name)
            for name in ("one", "two")
        ]
    finally:
        subprocess.run(["sh", "-c", NO_HOSTS], capture_output=True)


@pytest.mark.long
def test_two_hosts_give_the_losses_of_one_process(tmp_path, alone, hosts):
    folder = tmp_path / "hosts"
    ended = finish(*start_pair("--out", folder, address="10.77.0.1", hosts=hosts))
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert_same_run(folder, alone)


@pytest.mark.long
def test_a_signal_to_one_stops_both_and_the_pair_goes_on(tmp_path, alone):
    folder = tmp_path / "stopped"
    pair = start_pair("--out", folder)
    wait_for_lines(folder, 4, pair)
    pair[1].send_signal(signal.SIGTERM)
    ended = finish(*pair, seconds=15)
    assert [code for code, _, _ in ended] == [143, 143], ended
    assert "continue with --resume" in ended[0][2]
    assert len(lines_of(folder)) < len(lines_of(alone))
    ended = finish(*start_pair("--resume", folder))
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert_same_run(folder, alone)


def more(*values):
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.parametrize(
    ("lost", "number"),
    [
        more(1, signal.SIGKILL),
        more(0, signal.SIGKILL),
        more(0, signal.SIGSTOP),
        more(1, signal.SIGSTOP),
    ],
)
def test_a_lost_peer_ends_the_other_in_one_line_and_the_pair_goes_on(tmp_path, lost, number):
    folder = tmp_path / "lost"
    pair = start_pair("--out", folder, epochs=4000)
    wait_for_lines(folder, 4, pair)
    child = child_of(pair[lost])
    os.kill(child, number)
    since = time.monotonic()
    code, _, errors = finish(pair[1 - lost], seconds=15)[0]
    assert time.monotonic() - since < 15
    assert code == 1
    assert errors.splitlines()[-1] == f"error: {LOST}; {AGAIN}"
    assert len(errors.splitlines()) == 1
    os.kill(child, signal.SIGKILL) if number == signal.SIGSTOP else None
    finish(pair[lost])
    before = len(lines_of(folder))
    pair = start_pair("--resume", folder, epochs=4000)
    wait_for_lines(folder, before + 2, pair)
    for process in pair:
        process.send_signal(signal.SIGTERM)
    assert [code for code, _, _ in finish(*pair, seconds=30)] == [143, 143]


@pytest.mark.long
def test_begun_by_two_processes_finished_by_one_on_one_device(tmp_path, alone):
    folder = tmp_path / "moved"
    pair = start_pair("--out", folder)
    wait_for_lines(folder, 4, pair)
    pair[0].send_signal(signal.SIGTERM)
    assert [code for code, _, _ in finish(*pair, seconds=30)] == [143, 143]
    ((code, _, errors),) = finish(start("--resume", folder, devices=1))
    assert code == 0, errors
    assert_same_run(folder, alone)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_processes": 2}, "all three or none, found no --coordinator and no --process-id"),
        (
            {"coordinator": "here", "num_processes": 2, "process_id": 0},
            "--coordinator: expected HOST:PORT, found 'here'",
        ),
        (
            {"coordinator": "here:1", "num_processes": 2, "process_id": 2},
            "--process-id: expected 0 to 1, found 2",
        ),
        (
            {"distributed": True, "process_id": 1},
            "--distributed: expected no flag beside it, found --process-id",
        ),
    ],
)
def test_flags_that_do_not_say_who_belongs_together(given, message):
    with pytest.raises(InputError, match=message):
        check_joining(ManySeeds(**given))


def test_where_a_run_is_computed_is_no_part_of_what_it_is():
    options, arguments = parse("digits", digits.PRESETS, ["--seed", "3", "--distributed"])
    assert options.distributed and arguments == ("--seed", "3")
