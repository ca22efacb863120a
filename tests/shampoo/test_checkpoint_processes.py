"""A canonical checkpoint of two processes is that of one."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

import shampoo_jax
from tests.shampoo.two_processes import placed, start, train, transform


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


@pytest.mark.long
def test_two_processes_save_restore_and_move_to_one(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    port = str(_free_port())
    command = [sys.executable, "-m", "tests.shampoo.two_processes"]
    workers = [
        subprocess.Popen(
            [*command, str(i), port, str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    try:
        said = [worker.communicate(timeout=240)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(said)
    files = (tmp_path / f"{name}.npz" for name in ("state", "params", "unbroken"))
    saved, params, expected = (dict(np.load(file)) for file in files)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    tx = transform()
    _, fresh = placed(tx, start(), mesh)
    state = shampoo_jax.from_canonical(saved, fresh, params=params)
    params, _ = placed(tx, params, mesh)
    found, _ = train(tx, params, state, mesh=mesh)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
