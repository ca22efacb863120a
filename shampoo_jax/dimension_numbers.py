"""What the axes of a parameter mean: which are stacks, which belong to one side of a matrix.

    tx = shampoo(1e-2, dimension_numbers=dimension_numbers.flax)
    tx = shampoo(1e-2, dimension_numbers=dimension_numbers.stacked("layers"))

A rule is a function (path, leaf) -> `DimensionNumbers` or None, None = nothing is known and the
shape decides. `path` is the tuple of names that lead to the leaf, `("params", "Dense_0",
"kernel")`; `leaf` has a shape and a dtype. `flax` and `stacked` are ready; rules compose.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

Axes = tuple[int, ...]
Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class DimensionNumbers:
    """The roles of a parameter's axes; negative numbers count from the end.

    Attributes:
      batch: axes along which independent parameters are stacked: layers of a scan, experts. Each of
        them is preconditioned by itself, as if it were a leaf of its own.
      sides: one tuple of axes per dim of the block, in the order in which they are flattened: for a
        convolution the output channels, then input channels and window. None = the other axes as
        they stand, small neighbours merged (`Blocks.target_dimensionality`).
      precondition: False = the grafting method's direction alone (Adam, by default).
    """

    batch: Axes = ()
    sides: tuple[Axes, ...] | None = None
    precondition: bool = True


Rule = Callable[[Path, Any], DimensionNumbers | None]

# Modules whose kernels of three axes are matrices: flax's attention. Input first, or last in "out".
_ATTENTION_IN = ("query", "key", "value")
_ATTENTION_OUT = "out"


def flax(path: Path, leaf: Any) -> DimensionNumbers | None:
    """Read the axes of flax.linen's and flax.nnx's modules off their names and shapes.

    Kernels of convolutions are (*window, input, output): output channels against the rest, so that
    they get the directions of the same kernels in the order (output, input, *window). Those of
    attention (DenseGeneral named query, key, value, out) are (input, heads, size) and (heads, size,
    output). Embedding tables and all else are left to their shape.
    """
    names = list(path)
    while names and names[-1] in (
        "value",
        "",
    ):  # what nnx's variables add; attention has a value too
        names.pop()
    if not names or names[-1] != "kernel" or len(leaf.shape) < 3:
        return None
    module = names[-2] if len(names) > 1 else ""
    if len(leaf.shape) == 3 and module in _ATTENTION_IN:
        return dense_general(path, leaf, inputs=1)
    if len(leaf.shape) == 3 and module == _ATTENTION_OUT:
        return dense_general(path, leaf, inputs=2)
    window = tuple(range(len(leaf.shape) - 2))
    return DimensionNumbers(sides=((-1,), (-2, *window)))


def dense_general(path: Path, leaf: Any, *, inputs: int) -> DimensionNumbers:
    """Return (input axes, output axes) of a kernel whose first `inputs` axes are inputs."""
    del path
    axes = tuple(range(len(leaf.shape)))
    return DimensionNumbers(sides=(axes[:inputs], axes[inputs:]))


def stacked(names: str | Sequence[str], *, axis: int = 0, inner: Rule = flax) -> Rule:
    """Return the rule of modules that hold a stack of layers or experts along one axis.

    Args:
      names: parts of the path, one of which a leaf of the stack has: the module that `nn.scan` or
        `nnx.vmap` made, `"layers"`.
      axis: of all leaves below it along which they are stacked (flax's `variable_axes`).
      inner: rule for one layer, whose leaves lack that axis. Experts in scanned layers:
        `stacked("layers", inner=stacked("experts"))`.
    """
    wanted = {names} if isinstance(names, str) else set(names)

    def rule(path: Path, leaf: Any) -> DimensionNumbers | None:
        if wanted.isdisjoint(path):
            return inner(path, leaf)
        own = axis % len(leaf.shape)
        rest = [k for k in range(len(leaf.shape)) if k != own]
        one = jax.ShapeDtypeStruct(tuple(leaf.shape[k] for k in rest), leaf.dtype)
        found = inner(path, one) or DimensionNumbers()
        sides = found.sides and tuple(tuple(rest[k] for k in side) for side in found.sides)
        batch = (own, *(rest[k] for k in found.batch))
        return dataclasses.replace(found, batch=batch, sides=sides)

    return rule


def resolve(rule: Rule | None, path: Path, leaf: Any) -> DimensionNumbers:
    """Return what a rule says of a leaf, its axes from 0 and every one of them accounted for.

    Raises:
      ValueError: an axis that the leaf does not have, has twice, or that has no role.
    """
    found = rule(path, leaf) if rule is not None else None
    found = DimensionNumbers() if found is None else found
    where = f"of {'/'.join(path) or 'the parameter'} {tuple(leaf.shape)}"
    if not isinstance(found, DimensionNumbers):
        raise ValueError(
            f"dimension_numbers: expected DimensionNumbers or None {where}, found {found!r}"
        )
    order = len(leaf.shape)
    sides = found.sides if found.sides is None else tuple(map(tuple, found.sides))
    named = [*found.batch, *(k for side in sides or () for k in side)]
    axes = [k + order if k < 0 else k for k in named]
    distinct = len(set(axes)) == len(axes) and set(axes) <= set(range(order))
    if not distinct or (sides is not None and len(axes) != order):
        whole = "every axis once" if sides is not None else "some axes, once each"
        raise ValueError(
            f"dimension_numbers: expected {whole} {where}, found batch={found.batch}, sides={sides}"
        )
    batch = tuple(k % order for k in found.batch)
    positive = sides and tuple(tuple(k % order for k in side) for side in sides)
    return DimensionNumbers(batch, positive, bool(found.precondition))
