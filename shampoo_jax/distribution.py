"""Dealing blocks over devices: one shard_map, one all-gather of directions (paper, section 4).

The same body runs without a mesh, under Auto and Explicit axes, and inside a caller's own
shard_map. A mesh comes from the argument, else from the context (`jax.set_mesh`).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from shampoo_jax.state import PoolState, ShampooState

AnyMesh = Mesh | AbstractMesh


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices that share the blocks.

    Attributes:
      mesh: a Mesh or AbstractMesh; None on one device and inside a caller's shard_map.
      axes: mesh axes that the block axis is sharded over, major to minor.
      count: their number of devices.
    """

    mesh: AnyMesh | None
    axes: tuple[str, ...]
    count: int

    def index(self) -> jax.Array | int:
        """Return the position of this device, inside the body."""
        return lax.axis_index(self.axes) if self.count > 1 else 0

    def gather(self, x: jax.Array) -> jax.Array:
        """Gather `[n, ...]` from all devices as `[count * n, ...]`, inside the body."""
        return lax.all_gather(x, self.axes, tiled=True) if self.count > 1 else x


def _size(mesh, axes: Sequence[str]) -> int:
    return math.prod(mesh.shape[a] for a in axes)


def resolve(mesh: AnyMesh | None, axes: Sequence[str] | None) -> Devices:
    """Return the devices of the argument `mesh`, of a caller's shard_map, or of the context.

    Raises:
      ValueError: an axis that the mesh does not have.
    """
    context = jax.sharding.get_abstract_mesh()
    manual = tuple(
        name
        for name, kind in zip(context.axis_names, context.axis_types)
        if kind == AxisType.Manual
    )
    if mesh is None and not context.empty:
        mesh = context
    if mesh is None:
        return Devices(None, (), 1)
    unknown = [a for a in axes or () if a not in mesh.axis_names]
    if unknown:
        raise ValueError(
            f"mesh_axes: expected axes of the mesh {tuple(mesh.axis_names)}, found {unknown[0]!r}"
        )
    if manual:
        own = tuple(a for a in axes or manual if a in manual)
        return Devices(None, own, _size(context, own))
    own = tuple(axes or mesh.axis_names)
    return Devices(mesh, own, _size(mesh, own))


def _is_rowwise(leaf, pool: PoolState) -> bool:
    rows = pool.last_refresh.shape[0]
    return len(leaf.shape) > 0 and leaf.shape[0] == rows


def pool_specs(pools: Any, axes: Sequence[str]) -> Any:
    """Return a PartitionSpec for every leaf of the pools: rows over `axes`, the rest replicated."""
    if not isinstance(pools, tuple):
        return P()
    return tuple(
        jax.tree.map(lambda x, pool=pool: P(tuple(axes)) if _is_rowwise(x, pool) else P(), pool)
        for pool in pools
    )


def state_sharding(state: Any, mesh: AnyMesh, *, axes: Sequence[str] | None = None) -> Any:
    """Return a NamedSharding for every leaf of an optimizer state.

    Rows of Shampoo's pools are sharded over `axes`, every other leaf is replicated. Use it as
    `out_shardings` of a jitted `tx.init`, or to place a restored state.

    Args:
      state: any optax state that holds `ShampooState`s, of arrays or `jax.eval_shape` results.
      mesh: the mesh.
      axes: mesh axes, default all of them; as in `Sharding.mesh_axes`.

    Raises:
      ValueError: an axis that the mesh does not have.
    """
    own = resolve(mesh, axes).axes

    def shardings(node):
        if isinstance(node, ShampooState):
            count: Any = P()
            specs = ShampooState(count, pool_specs(node.pools, own))
            return jax.tree.map(
                lambda s: NamedSharding(mesh, s), specs, is_leaf=lambda x: isinstance(x, P)
            )
        return NamedSharding(mesh, P())

    return jax.tree.map(shardings, state, is_leaf=lambda x: isinstance(x, ShampooState))


def _axes_of(entry) -> tuple[str, ...]:
    if entry is None:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)


def _is_explicit(mesh) -> bool:
    return any(kind == AxisType.Explicit for kind in mesh.axis_types)


def leaf_specs(leaves: Sequence[jax.Array], mesh: AnyMesh, given: Sequence[P] | None) -> list[P]:
    """Return how each leaf is sharded: as given, as its type says (Explicit), else replicated."""
    if given is not None:
        return list(given)
    if _is_explicit(mesh):
        return [jax.typeof(x).sharding.spec for x in leaves]
    return [P() for _ in leaves]


def is_sharded(spec: P) -> bool:
    """Whether any dim is split."""
    return any(_axes_of(entry) for entry in spec)


def _global_from_shards(shards: jax.Array, spec: P, mesh: AnyMesh) -> jax.Array:
    """Rebuild a leaf from `[*mesh axes, *local shape]`."""
    names = list(mesh.axis_names)
    used = [a for entry in spec for a in _axes_of(entry)]
    for axis in reversed(range(len(names))):
        if names[axis] not in used:
            shards = lax.index_in_dim(shards, 0, axis, keepdims=False)
            names.pop(axis)
    order, shape, local = [], [], shards.shape[len(names) :]
    entries = list(spec) + [None] * (len(local) - len(spec))
    for dim, (entry, size) in enumerate(zip(entries, local)):
        order += [names.index(a) for a in _axes_of(entry)] + [len(names) + dim]
        shape.append(size * _size(mesh, _axes_of(entry)))
    return shards.transpose(order).reshape(shape)


def gather_leaves(
    leaves: Sequence[jax.Array], specs: Sequence[P], mesh: AnyMesh
) -> list[jax.Array]:
    """Gather sharded leaves whole, in one fused collective per dtype, inside the body."""
    whole = list(leaves)
    groups: dict = {}
    for i, spec in enumerate(specs):
        if is_sharded(spec):
            groups.setdefault(leaves[i].dtype, []).append(i)
    for members in groups.values():
        flat = jnp.concatenate([leaves[i].reshape(-1) for i in members])
        gathered = lax.all_gather(flat, tuple(mesh.axis_names))
        gathered = gathered.reshape(*(mesh.shape[a] for a in mesh.axis_names), -1)
        start = 0
        for i in members:
            part = gathered[..., start : start + leaves[i].size]
            start += leaves[i].size
            shards = part.reshape(part.shape[:-1] + leaves[i].shape)
            whole[i] = _global_from_shards(shards, specs[i], mesh)
    return whole


def _shards_from_global(leaf: jax.Array, spec: P, mesh: AnyMesh) -> jax.Array:
    """Undo `_global_from_shards`: `[*sizes of the spec's axes in the mesh's order, *local]`."""
    names, shape, local = [], [], []
    for dim, size in enumerate(leaf.shape):
        axes = _axes_of(spec[dim]) if dim < len(spec) else ()
        shape += [mesh.shape[a] for a in axes]
        names += axes
        local.append(len(shape))
        names.append(None)
        shape.append(size // _size(mesh, axes))
    order = [names.index(a) for a in mesh.axis_names if a in names]
    return leaf.reshape(shape).transpose(order + local)


def scatter_leaves(
    leaves: Sequence[jax.Array], specs: Sequence[P], mesh: AnyMesh
) -> list[jax.Array]:
    """Sum whole leaves over all devices and return this device's shards, inside the body.

    One reduce-scatter per dtype and set of axes that leaves are sharded over.
    """
    shards, groups = list(leaves), {}
    for i, (leaf, spec) in enumerate(zip(leaves, specs)):
        used = {a for entry in spec for a in _axes_of(entry)}
        axes = tuple(a for a in mesh.axis_names if a in used)
        groups.setdefault((leaf.dtype, axes), []).append(i)
    for (_, axes), members in groups.items():
        count, rest = _size(mesh, axes), tuple(a for a in mesh.axis_names if a not in axes)
        parts = [_shards_from_global(leaves[i], specs[i], mesh) for i in members]
        flat = jnp.concatenate([part.reshape(count, -1) for part in parts], axis=1)
        flat = lax.psum_scatter(flat, axes) if axes else flat[0]
        flat = lax.psum(flat, rest) if rest else flat
        start = 0
        for i, part in zip(members, parts):
            size = part.size // count
            shards[i] = flat[start : start + size].reshape(part.shape[len(axes) :])
            start += size
    return shards


def own_shard(leaf: jax.Array, spec: P, mesh: AnyMesh) -> jax.Array:
    """Cut this device's shard out of a whole leaf, inside the body."""
    for dim, entry in enumerate(spec):
        axes = _axes_of(entry)
        if axes:
            size = leaf.shape[dim] // _size(mesh, axes)
            leaf = lax.dynamic_slice_in_dim(leaf, lax.axis_index(axes) * size, size, dim)
    return leaf


def reshard_explicit(x: jax.Array, spec: P, mesh: AnyMesh) -> jax.Array:
    """Give `x` the type that shard_map expects under Explicit axes; elsewhere do nothing."""
    if not _is_explicit(mesh) or jax.typeof(x).sharding.spec == spec:
        return x
    return jax.sharding.reshard(x, spec)


def constrain(x: jax.Array, spec: P, devices: Devices) -> jax.Array:
    """Place a new state leaf: rows over the devices."""
    mesh = devices.mesh
    if mesh is None:
        return x
    if _is_explicit(mesh):
        return jax.sharding.reshard(x, NamedSharding(mesh, spec))
    return lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
