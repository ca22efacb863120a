"""What the text of a compiled program says of one device: products, collectives and their bytes.

Loops whose number of rounds is known count that often, as `cost_analysis` of XLA does not; what
lies in loops of an unknown number (Shampoo's refresh of the blocks that are due) counts nothing.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

from experiments.loop.collectives import COLLECTIVES, collective_bytes

_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_LOOP = re.compile(r"body=%?([\w.\-]+)")
_ROUNDS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass
class Costs:
    """Per device and step.

    Attributes:
      flops: floating-point operations of matrix products and convolutions.
      bytes: by kind of collective, what it returns.
      counts: by kind of collective, how often it runs.
    """

    flops: float = 0.0
    bytes: dict[str, float] = dataclasses.field(default_factory=dict)
    counts: dict[str, float] = dataclasses.field(default_factory=dict)

    def add(self, other: Costs, times: float) -> None:
        """Add what runs `times` times."""
        self.flops += times * other.flops
        for own, more in ((self.bytes, other.bytes), (self.counts, other.counts)):
            for kind, value in more.items():
                own[kind] = own.get(kind, 0.0) + times * value


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation."""

    name: str
    type: str  # of the result, "f32[8,4]{1,0}" or a tuple of such
    operation: str
    rest: str  # operands and attributes


def costs_of(text: str) -> Costs:
    """Read the text of a compiled program, as `compiled.as_text()` gives it.

    Raises:
      ValueError: it has no entry.
    """
    computations, entry = _computations(text)
    if entry is None:
        raise ValueError("text: expected a compiled program with an ENTRY, found none")
    known: dict[str, Costs] = {}

    def total(name: str) -> Costs:
        if name not in known:
            known[name] = _of_computation(computations.get(name, []), total)
        return known[name]

    return total(entry)


def _computations(text: str) -> tuple[dict[str, list[Instruction]], str | None]:
    found: dict[str, list[Instruction]] = {}
    entry, current = None, []
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            current = found.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
            continue
        parts = _LINE.match(line)
        if parts:
            current.append(Instruction(*parts.groups()))
    return found, entry


def _of_computation(lines: list[Instruction], total) -> Costs:
    costs, types = Costs(), {line.name: line.type for line in lines}
    for line in lines:
        kind = line.operation.removesuffix("-start")
        if kind in COLLECTIVES:
            taken = collective_bytes(f"= {line.type} {line.operation}(", [kind])
            costs.add(Costs(bytes={kind: taken}, counts={kind: 1}), 1)
        elif kind == "dot":
            costs.flops += _dot(line, types)
        elif kind == "convolution":
            costs.flops += _convolution(line, types)
        elif kind == "while":
            rounds, body = _ROUNDS.search(line.rest), _LOOP.search(line.rest)
            if rounds and body:
                costs.add(total(body[1]), int(rounds[1]))
        else:
            for name in _called(line.rest):
                costs.add(total(name), 1)
    return costs


def _called(rest: str) -> Iterator[str]:
    yield from _CALLED.findall(rest)
    for names in _BRANCHES.findall(rest):
        yield from (name.strip().lstrip("%") for name in names.split(","))


def _shape(type_: str) -> list[int]:
    dims = re.search(r"\[([\d,]*)\]", type_)
    return [int(size) for size in dims[1].split(",") if size] if dims else []


def _operands(line: Instruction, types: dict[str, str]) -> list[list[int]]:
    names = re.findall(r"%([\w.\-]+)", line.rest.split(")")[0])
    return [_shape(types[name]) for name in names]


def _axes(rest: str, name: str) -> list[int]:
    found = re.search(rf"{name}=\{{([\d,]*)\}}", rest)
    return [int(axis) for axis in found[1].split(",") if axis] if found else []


def _dot(line: Instruction, types: dict[str, str]) -> float:
    left = _operands(line, types)[0]
    contracted = math.prod(left[axis] for axis in _axes(line.rest, "lhs_contracting_dims"))
    return 2.0 * math.prod(_shape(line.type)) * contracted


def _convolution(line: Instruction, types: dict[str, str]) -> float:
    """Count as `trace.convolution_flops` does."""
    kernel = _operands(line, types)[1]
    labels = re.search(r"dim_labels=\w+_(\w+)->", line.rest)
    outputs = kernel[labels[1].index("o")] if labels else 1
    dilated = re.search(r"lhs_dilate=([\dx]+)", line.rest)
    zeros = math.prod(map(int, dilated[1].split("x"))) if dilated else 1
    return 2.0 * math.prod(_shape(line.type)) * math.prod(kernel) / outputs / zeros
