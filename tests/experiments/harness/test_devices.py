"""Fake devices of a CPU: as many as asked for, and programs queued on them end."""

import os
import subprocess
import sys
import textwrap
from typing import NamedTuple

import jax
import pytest

from experiments.harness.devices import select_devices
from experiments.harness.errors import InputError

QUEUED = """
    from experiments.harness.devices import make_mesh, select_devices

    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = make_mesh(select_devices(8))

    def gathered(x, y):
        y = jnp.tanh(y @ x)
        return x * 0.9 + jax.lax.all_gather(y, "data", tiled=True), y

    specs = (P(), P("data"))
    step = jax.jit(
        jax.shard_map(gathered, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=False)
    )
    carry = jax.device_put((jnp.ones((64, 64)), jnp.ones((64, 64))), NamedSharding(mesh, P()))
    for _ in range(2000):  # none is waited for
        carry = step(*carry)
    print(jax.block_until_ready(carry)[0].shape)
"""


def test_programs_with_collectives_may_be_queued():
    """Without enough threads XLA:CPU stops the process after 40 seconds."""
    environment = {k: v for k, v in os.environ.items() if k not in ("NPROC", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(QUEUED)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "(64, 64)"


class OfProcess(NamedTuple):
    """A device of one of several processes."""

    process_index: int
    number: int
    platform: str = "gpu"


def test_every_process_has_an_equal_share_of_the_devices(monkeypatch):
    """Counted by the processes that joined, however they did."""
    listed = [OfProcess(i, j) for i in (0, 1) for j in range(4)]
    monkeypatch.setattr(jax, "devices", lambda: listed)
    chosen = select_devices(4, processes=2)
    assert [(d.process_index, d.number) for d in chosen] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    with pytest.raises(InputError, match=r"--devices: expected a multiple of the 2 processes"):
        select_devices(3, processes=2)
    with pytest.raises(InputError, match=r"--devices: expected at most 8 \(GPU\), found 10"):
        select_devices(10, processes=2)
