"""One case: a step on a mesh of any size, its figures from a compiled program, and by the formula.

The formula compiles nothing. Bytes of parameters, optimizer state and batch are those of the
project's own layout on an abstract mesh; operations are counted in the trace; collectives follow
from the layout:

    all-reduce   every gradient, whole
    all-gather   parameters in parts, as often as the case says; Shampoo's directions, and before
                 them the gradients of parameters in parts
    reduce-scatter  Shampoo's directions instead, where gradients in parts are gathered in rounds

Temporary bytes (activations, gradients, what is gathered, workspace) are no sum that a layout
gives: they are fitted, see `fit_temporary`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh

from experiments.harness.devices import make_mesh
from experiments.loop.sharding import key_path
from experiments.loop.train_step import TrainState, replicated, shardings_of
from experiments.studies.capacity.blocks import Dealing, dealing_of
from experiments.studies.capacity.program import costs_of
from experiments.studies.capacity.trace import flops_per_device
from shampoo_jax import Sharding

AnyMesh = Mesh | AbstractMesh


@dataclasses.dataclass(frozen=True, eq=False)
class Laid:
    """A step and the shapes, with places, of what it reads.

    Attributes:
      step: (state, batch, *more) -> (state, scalars).
      state: parameters and optimizer state.
      batch: of all devices together.
      more: further arguments, such as a catalogue.
      gathered: by path of a parameter in parts, how often a step gathers it.
      moved: bytes that collectives return beside those of parameters and gradients, by kind.
      further_flops: operations beyond an even share of the trace's: of work that every device does
        whole, less what the compiler computes once and the trace has twice.
      growing: temporary bytes that every further device adds to each.
      gather_bytes: of gradients in parts that Shampoo holds whole at a time.
    """

    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    state: TrainState
    batch: Any
    more: tuple = ()
    gathered: Callable[[str], int] = lambda path: 1
    moved: Mapping[str, float] = dataclasses.field(default_factory=dict)
    further_flops: float = 0.0
    growing: float = 0.0
    gather_bytes: int = Sharding().gather_bytes

    @property
    def arguments(self) -> tuple:
        """All that the step reads."""
        return self.state, self.batch, *self.more


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What is compiled and computed.

    Attributes:
      name, layout: of the table.
      about: sizes, for the reader.
      lay: builds the step for a mesh, which is in context.
    """

    name: str
    layout: str
    about: str
    lay: Callable[[AnyMesh], Laid]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """Figures of one device in one step.

    Attributes:
      devices: their number.
      source: "compiled" or "computed".
      parameters, optimizer, inputs: bytes; the optimizer's with those of an average of the
        parameters, inputs are batch and catalogue.
      temporary: bytes of activations, gradients, gathered arrays and workspace; None unknown.
      moved: bytes that collectives return, by kind.
      collectives: how many run; None where computed.
      flops: operations of matrix products and convolutions.
      dealing: of Shampoo's blocks.
      growing: see `Laid`.
      seconds: that compiling or computing took.
    """

    devices: int
    source: str
    parameters: float
    optimizer: float
    inputs: float
    temporary: float | None
    moved: Mapping[str, float]
    collectives: float | None
    flops: float
    dealing: Dealing
    growing: float
    seconds: float

    @property
    def total(self) -> float | None:
        """Bytes that a device must have."""
        held = self.parameters + self.optimizer + self.inputs
        return None if self.temporary is None else held + self.temporary


def compile_row(case: Case, devices: int) -> Row:
    """Compile the step for so many fake devices; nothing is allocated."""
    start = time.monotonic()
    mesh = make_mesh(jax.devices()[:devices])
    with jax.set_mesh(mesh):
        laid = case.lay(mesh)
        places = (shardings_of(laid.state), replicated(mesh))
        jitted = jax.jit(laid.step, donate_argnums=0, out_shardings=places)
        compiled: Any = jitted.lower(*laid.arguments).compile()
    memory, costs = compiled.memory_analysis(), costs_of(compiled.as_text() or "")
    held = _held(laid)
    # What the program leaves out of its arguments (a key that no loss reads) is not looked for.
    return Row(
        devices=devices,
        source="compiled",
        parameters=held[0],
        optimizer=held[1],
        inputs=float(memory.argument_size_in_bytes) - held[0] - held[1],
        temporary=float(memory.temp_size_in_bytes),
        moved=costs.bytes,
        collectives=sum(costs.counts.values()),
        flops=costs.flops,
        dealing=dealing_of(laid.state.opt_state, devices),
        growing=laid.growing,
        seconds=time.monotonic() - start,
    )


def compute_row(case: Case, devices: int, temporary: Temporary | None = None) -> Row:
    """Compute the same figures by the formula."""
    start = time.monotonic()
    mesh = AbstractMesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    with jax.sharding.use_abstract_mesh(mesh):
        laid = case.lay(mesh)
        jaxpr = jax.make_jaxpr(laid.step)(*laid.arguments)
    parameters, optimizer, inputs = _held(laid)
    dealing = dealing_of(laid.state.opt_state, devices)
    return Row(
        devices=devices,
        source="computed",
        parameters=parameters,
        optimizer=optimizer,
        inputs=inputs,
        temporary=None if temporary is None else temporary.at(devices),
        moved=_moved(laid, dealing, devices),
        collectives=None,
        flops=flops_per_device(jaxpr.jaxpr, devices) + laid.further_flops,
        dealing=dealing,
        growing=laid.growing,
        seconds=time.monotonic() - start,
    )


def _held(laid: Laid) -> tuple[float, float, float]:
    counters = (laid.state.step, laid.state.skipped)
    inputs = bytes_per_device((laid.batch, laid.more, counters))
    kept = laid.state.opt_state, laid.state.average
    return bytes_per_device(laid.state.params), bytes_per_device(kept), inputs


def bytes_per_device(layout: Any) -> float:
    """Sum the bytes that a device holds of arrays or shapes with places."""
    leaves = jax.tree.leaves(layout)
    shapes = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype.itemsize) for leaf in leaves]
    return float(sum(math.prod(shape) * size for shape, size in shapes))


def _moved(laid: Laid, dealing: Dealing, devices: int) -> dict[str, float]:
    if devices == 1:
        return {}
    whole = shards = in_parts = gathers = 0.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(laid.state.params):
        shape, size = leaf.sharding.shard_shape(leaf.shape), leaf.dtype.itemsize
        bytes_ = math.prod(leaf.shape) * size
        if shape == leaf.shape:
            whole += bytes_
            continue
        in_parts += bytes_
        shards += math.prod(shape) * size
        gathers += bytes_ * (laid.gathered(key_path(path)) + dealing.has_blocks)
    found = {"all-reduce": whole + in_parts, "all-gather": gathers + dealing.direction_bytes}
    if dealing.has_blocks and in_parts > laid.gather_bytes:
        found = {
            "all-reduce": found["all-reduce"] + whole,
            "all-gather": gathers,
            "reduce-scatter": shards,
        }
    for kind, size in laid.moved.items():
        found[kind] = found.get(kind, 0.0) + size
    return found


@dataclasses.dataclass(frozen=True)
class Temporary:
    """Temporary bytes per device: fixed + shared / devices + growing * devices."""

    fixed: float
    shared: float
    growing: float

    def at(self, devices: int) -> float:
        """Return the bytes for so many devices."""
        return self.fixed + self.shared / devices + self.growing * devices


def fit_temporary(rows: Mapping[int, Row]) -> Temporary | None:
    """Fit `Temporary` to the fewest and the most devices that were compiled; others check it.

    What grows is known from the case. Returns None where fewer than two were compiled.
    """
    least, most = min(rows), max(rows)
    if least == most:
        return None
    growing = rows[least].growing
    few, many = ((rows[n].temporary or 0.0) - growing * n for n in (least, most))
    shared = (few - many) / (1 / least - 1 / most)
    return Temporary(many - shared / most, shared, growing)


def deviations(compiled: Row, computed: Row) -> dict[str, float]:
    """Return, by figure, how far the formula is from the compiled program, as a share of it."""

    def off(a: float, b: float) -> float:
        return abs(a - b) / max(abs(b), 1.0)

    held = compiled.parameters + compiled.optimizer + compiled.inputs
    found = {
        "arguments": off(computed.parameters + computed.optimizer + computed.inputs, held),
        "collectives": off(sum(computed.moved.values()), sum(compiled.moved.values())),
        "operations": off(computed.flops, compiled.flops),
    }
    if computed.temporary is not None and compiled.temporary is not None:
        found["temporary"] = off(computed.temporary, compiled.temporary)
    return found
