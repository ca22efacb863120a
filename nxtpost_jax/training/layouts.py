"""Where the arrays of a training lie on a mesh: dealt over its axis "data", or whole everywhere."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"
_LEAST = 2**14  # numbers of an array that is dealt: a smaller one costs more to gather


class Dealt(NamedTuple):
    """Hold where a training lies.

    Attributes:
      mesh: its axes are Auto: the compiler deals what lies between arguments and results.
      state: the state with a `NamedSharding` in each array's place.
      specs: a `PartitionSpec` per parameter; None where all are whole on every device.
    """

    mesh: Mesh
    state: Any
    specs: Any

    @property
    def everywhere(self) -> NamedSharding:
        """Place a whole copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def by_rows(self) -> NamedSharding:
        """Deal the first dimension."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))


def automatic(mesh: Mesh) -> Mesh:
    """Give a mesh whose axes are dealt by the compiler; explicit ones would ask for more.

    Raises:
      ValueError: the mesh has no axis "data".
    """
    if AXIS not in mesh.axis_names:
        raise ValueError(f"mesh: expected an axis '{AXIS}', found {', '.join(mesh.axis_names)}")
    return Mesh(mesh.devices, mesh.axis_names)


def dealt(state: Any, mesh: Mesh, *, fsdp: bool = False) -> Dealt:
    """Say where a state lies.

    What its optimizer has dealt already stays so, as the blocks of Shampoo do. An array that is
    named and shaped like a parameter, such as a moment of Adam or an average, lies as it does.

    Args:
      state: a `steps.TrainState` whose optimizer's state was made under the mesh.
      mesh: the devices.
      fsdp: deal the largest dimension of every parameter that the devices divide (fully sharded
        data parallel), but for small ones; else parameters are whole on every device.

    Raises:
      ValueError: the mesh has no axis "data", or `fsdp` deals no parameter over it.
    """
    mesh = automatic(mesh)
    specs = _specs(state.params, mesh.shape[AXIS]) if fsdp else None
    whole = NamedSharding(mesh, PartitionSpec())
    params = jax.tree.map(lambda _: whole, state.params)
    if specs is not None:
        params = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    paths = jax.tree_util.tree_leaves_with_path(state.params)
    known = [(path, leaf.shape, own) for (path, leaf), own in zip(paths, jax.tree.leaves(params))]
    known.sort(key=lambda one: len(one[0]), reverse=True)  # the longest end of a path counts

    def of(path: tuple, leaf: jax.Array) -> NamedSharding:
        if isinstance(leaf.sharding, NamedSharding) and not leaf.is_fully_replicated:
            return NamedSharding(mesh, leaf.sharding.spec)
        for own, shape, sharding in known:
            if path[len(path) - len(own) :] == own and leaf.shape == shape:
                return sharding
        return whole

    rest = jax.tree_util.tree_map_with_path(of, (state.opt_state, state.average))
    return Dealt(mesh, state._replace(params=params, opt_state=rest[0], average=rest[1]), specs)


def _specs(params: Any, devices: int) -> Any:
    specs = jax.tree.map(lambda leaf: _spec(leaf.shape, devices), params)
    if not any(map(any, jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, PartitionSpec)))):
        raise ValueError(
            f"fsdp: expected a parameter of {_LEAST:,} numbers or more with a dimension that the "
            f"{devices} devices of the mesh divide, found none"
        )
    return specs


def _spec(shape: tuple[int, ...], devices: int) -> PartitionSpec:
    dividing = [i for i, size in enumerate(shape) if size % devices == 0]
    if math.prod(shape) < _LEAST or not dividing:
        return PartitionSpec()
    largest = max(dividing, key=lambda i: shape[i])
    return PartitionSpec(*[None] * largest, AXIS)
