"""The devices that a command runs on, arranged in a mesh."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from experiments.harness.errors import bad_input


def select_devices(count: int | None, *, processes: int = 1) -> list[jax.Device]:  # pyright: ignore[reportInvalidTypeForm]  # jaxlib has no types
    """Return `count` devices, all by default; on CPU make that many fake ones.

    Must run before anything else touches a device, because the number of CPU devices is fixed
    when jax starts its backends.

    Args:
        count: of the devices of all processes; each has as many of them.
        processes: that have joined.

    Raises:
        InputError: there are fewer than `count` devices, or not as many for each process.
    """
    if count is None:
        return jax.devices()
    if count % processes:
        expected = f"a multiple of the {processes} processes"
        raise bad_input("--devices", expected=expected, found=str(count))
    own = count // processes
    _widen_pool(2 * own)
    made = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]  # run time
    if own > made:
        with contextlib.suppress(RuntimeError):  # backends run already: what they have must do
            jax.config.update("jax_num_cpu_devices", own)
    listed = _by_process(jax.devices())
    most = processes * min(map(len, listed))
    if count > most:
        kind = jax.devices()[0].platform.upper()
        raise bad_input("--devices", expected=f"at most {most} ({kind})", found=str(count))
    return [device for devices in listed for device in devices[:own]]


def _by_process(devices: Sequence[jax.Device]) -> list[list[jax.Device]]:  # pyright: ignore[reportInvalidTypeForm]  # as above
    found: dict[int, list] = {}
    for device in devices:
        found.setdefault(device.process_index, []).append(device)
    return [found[process] for process in sorted(found)]


def _widen_pool(threads: int) -> None:
    """Let XLA:CPU start with at least `threads` threads.

    Programs with collectives that are queued one after the other take each other's threads and wait
    for ever where the pool has fewer than two for each device; it has one for each core.
    """
    given = os.environ.get("NPROC", "")
    most = int(given) if given.isdecimal() else os.cpu_count() or 1
    if most < threads:
        os.environ["NPROC"] = str(threads)


def make_mesh(
    devices: Sequence[jax.Device],  # pyright: ignore[reportInvalidTypeForm]  # as above
    *,
    shape: Sequence[int] = (-1,),
    axes: Sequence[str] = ("data",),
) -> Mesh:
    """Arrange devices in a mesh with Auto axes; one size of `shape` may be -1.

    Raises:
        ValueError: the sizes do not fit the devices, or there is not one a name.
    """
    sizes = _fill_shape(len(devices), shape)
    if len(sizes) != len(axes):
        raise ValueError(f"axes: expected {len(sizes)} names, one per size, found {axes}")
    auto = (AxisType.Auto,) * len(axes)
    return jax.make_mesh(sizes, tuple(axes), axis_types=auto, devices=list(devices))


def _fill_shape(n_devices: int, shape: Sequence[int]) -> tuple[int, ...]:
    known = math.prod(size for size in shape if size != -1)
    sizes = tuple(n_devices // known if size == -1 else size for size in shape)
    if shape.count(-1) > 1 or math.prod(sizes) != n_devices:
        raise ValueError(f"shape: expected sizes for {n_devices} devices, found {tuple(shape)}")
    return sizes
