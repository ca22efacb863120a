"""The least time of a step on published hardware: arithmetic, memory, network, the longest of them.

Nothing here is measured. A step takes at least as long as each of
    arithmetic   operations over the peak of dense bfloat16
    memory       every byte that is held, written once and read once, over the memory's rate
    network      bytes that a device sends in rings, over the rate of its slowest link
and these are reached together only where they overlap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

# Of what a collective returns, how much a device sends in a ring of many; all-reduce is two passes.
# A reduce-scatter returns one device's part of what is sent.
SENT = {
    "all-gather": 1.0,
    "all-reduce": 2.0,
    "all-to-all": 1.0,
    "collective-permute": 1.0,
    "reduce-scatter": 1.0,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """One device and its links, in bytes and operations per second.

    Attributes:
      name: of the device.
      flops: peak of dense bfloat16 products.
      memory: bytes.
      memory_rate: of its memory.
      near, near_devices: rate of a direction of the links among so many devices.
      far: the same beyond them.
      source: where the figures are published.
    """

    name: str
    flops: float
    memory: float
    memory_rate: float
    near: float
    near_devices: int
    far: float
    source: str


H200 = Machine(
    name="H200",
    flops=989e12,
    memory=141e9,
    memory_rate=4.8e12,
    near=450e9,
    near_devices=8,
    far=50e9,
    source="peak without sparsity, memory and links: "
    "ttsugriy.github.io/distributed-training-book/appendices/hardware-assumptions (NVLink 900 GB/s "
    "both ways, InfiniBand NDR 400 50 GB/s per GPU); memory and NVLink also in MLCommons, "
    "inference_results_v4.1, system H200-SXM-141GBx8",
)
V5P = Machine(
    name="TPU v5p",
    flops=459e12,
    memory=95 * 2**30,
    memory_rate=2.765e12,
    near=600e9,
    near_devices=8960,
    far=6.25e9,
    source="docs.cloud.google.com/tpu/docs/v5p (links 1,200 GB/s both ways, 50 Gb/s beyond a pod)",
)
MACHINES = (H200, V5P)


@dataclasses.dataclass(frozen=True)
class Least:
    """Seconds that a step takes at least, by what limits it."""

    arithmetic: float
    memory: float
    network: float

    @property
    def seconds(self) -> float:
        """The longest of the three."""
        return max(self.arithmetic, self.memory, self.network)

    @property
    def limit(self) -> str:
        """The name of the longest."""
        return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]


def least_time(
    machine: Machine, *, devices: int, flops: float, held: float, moved: Mapping[str, float]
) -> Least:
    """Compute the least time of a step.

    Args:
      machine: each of the devices.
      devices: their number.
      flops: operations per device.
      held: bytes that a device holds at the fullest moment.
      moved: bytes that collectives return to a device, by kind.
    """
    share = (devices - 1) / devices
    parts = {"reduce-scatter": devices}
    sent = share * sum(SENT[kind] * size * parts.get(kind, 1) for kind, size in moved.items())
    rate = machine.near if devices <= machine.near_devices else machine.far
    return Least(flops / machine.flops, 2 * held / machine.memory_rate, sent / rate)
