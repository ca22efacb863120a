"""Nothing is fetched: packages and commands run where there is no network at all."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.pages import ROOT

ALONE = ["unshare", "-rn"]  # a namespace of its own, without a device that is up
pytestmark = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run([*ALONE, "true"], capture_output=True).returncode != 0,
    reason="needs the right to make a network namespace",
)
UNREACHABLE = """
import socket
try:
    socket.create_connection(("127.0.0.1", 80), timeout=1)
except OSError as error:
    assert error.errno == 101, error  # the network is unreachable, not the port closed
else:
    raise SystemExit("there is a network")
"""


def run(arguments, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [*ALONE, sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_namespace_has_no_network(tmp_path):
    run(["-c", UNREACHABLE], tmp_path)


def test_the_packages_and_the_data_that_come_along_need_none(tmp_path):
    code = (
        "import shampoo_jax, nxtpost_jax, hsnn_jax\n"
        "from experiments.digits import load_splits\n"
        "print(sum(len(split.labels) for split in load_splits()))"
    )
    assert run(["-c", code], tmp_path).strip() == "1797"


@pytest.mark.long
@pytest.mark.parametrize("command", ["digits", "nxtpost", "out_of_the_box", "end_to_end"])
def test_a_command_needs_none(command, tmp_path):
    out = run(["-m", f"experiments.{command}", "--preset", "smoke"], tmp_path)
    assert re.search(r"^run folder: ", out, re.MULTILINE)
