"""Several processes of one run: they join, the first one decides and writes, all stop together.

Every process runs the same command on the same data and takes the same steps; jax spreads each step
over the devices of all. What depends on a disk or a clock, such as the name of the run folder or
the checkpoint to go on from, is decided by the first process and told to the others.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.harness.errors import InputError, bad_input
from nxtpost_jax import Deal

T = TypeVar("T")
HEARTBEAT = 10  # seconds without a sign of life after which a process counts as dead


class Joining(Protocol):
    """The options that say which processes belong together."""

    @property
    def coordinator(self) -> str | None: ...
    @property
    def num_processes(self) -> int | None: ...
    @property
    def process_id(self) -> int | None: ...
    @property
    def distributed(self) -> bool: ...


def check_joining(options: Joining) -> None:
    """Raise InputError where the options do not say which process of how many this one is."""
    given = {
        "--coordinator": options.coordinator,
        "--num-processes": options.num_processes,
        "--process-id": options.process_id,
    }
    missing = [flag for flag, value in given.items() if value is None]
    if len(missing) == len(given):
        return
    if options.distributed:
        found = ", ".join(flag for flag in given if flag not in missing)
        raise bad_input("--distributed", expected="no flag beside it", found=found)
    if missing:
        found = f"no {' and no '.join(missing)}"
        raise bad_input(", ".join(given), expected="all three or none", found=found)
    assert options.coordinator is not None and options.num_processes is not None
    host, _, port = options.coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise bad_input("--coordinator", expected="HOST:PORT", found=repr(options.coordinator))
    if not 0 <= (options.process_id or 0) < options.num_processes:
        expected = f"0 to {options.num_processes - 1}"
        raise bad_input("--process-id", expected=expected, found=str(options.process_id))


def is_joined(options: Joining) -> bool:
    """Say whether the options ask for several processes."""
    return options.distributed or options.coordinator is not None


def join(options: Joining) -> None:
    """Wait for the other processes of the run; without such options do nothing.

    Must run before anything touches a device.

    Raises:
        InputError: the others do not come, or the cluster is none that jax knows.
    """
    if not is_joined(options):
        return
    where = "--distributed" if options.distributed else f"--coordinator {options.coordinator}"
    try:
        jax.distributed.initialize(
            options.coordinator,
            options.num_processes,
            options.process_id,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (RuntimeError, ValueError) as error:
        found = str(error).splitlines()[0]
        expected = "to reach all processes of the run"
        raise bad_input(where, expected=expected, found=found) from error


def is_first() -> bool:
    """Say whether this process writes: the only one does, and of several the first."""
    return jax.process_index() == 0


def print_nothing() -> None:
    """Drop all that this process prints from here on, what C++ prints too."""
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def decided_by_first(decide: Callable[[], T]) -> T:
    """Return what `decide` returns in the first process; the others wait for it.

    Args:
        decide: called in the first process alone; its result is told as JSON.

    Raises:
        InputError: in the others, where `decide` raised anything in the first.
    """
    if jax.process_count() == 1:
        return decide()
    if not is_first():
        told = _told(None)
        if "error" in told:
            raise InputError(told["error"])
        return told["decided"]
    try:
        decided = decide()
    except Exception as error:
        _told({"error": f"the first process stopped: {error}"})
        raise
    _told({"decided": decided})
    return decided


def _told(value: Any) -> Any:
    """Return the first process's value, which JSON can hold, in all processes."""
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    room = np.zeros(max(64, 2 ** (size - 1).bit_length()), np.uint8)  # few sizes, few programs
    if is_first():
        room[:size] = text
    room = np.asarray(multihost_utils.broadcast_one_to_all(room), np.uint8)
    return json.loads(room[:size].tobytes())


def deal_of_queries() -> Deal | None:
    """Return this process's share of an evaluation that all run alike; None of the only one."""
    if jax.process_count() == 1:
        return None
    return Deal(jax.process_index(), jax.process_count(), _gathered)


def _gathered(array: np.ndarray) -> np.ndarray:
    everywhere = Mesh(np.array(jax.devices()), ("all",))
    with jax.set_mesh(everywhere):  # also where this process computes alone
        return multihost_utils.process_allgather(array)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let this process compute on a device of its own, where it is one of several."""
    if jax.process_count() == 1:
        yield
        return
    with jax.set_mesh(Mesh(np.array(jax.local_devices()[:1]), ("data",))):
        yield


def largest_of_all(value: int, mesh: Mesh) -> jax.Array:
    """Return the largest value that a process gives, int32 []; it is not waited for."""
    everywhere = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    own = jax.make_array_from_callback(
        (mesh.size,), everywhere, lambda index: np.full(1, value, np.int32)
    )
    return _largest(mesh)(own)


@functools.cache
def _largest(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
