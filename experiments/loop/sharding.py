"""Where arrays live: one mesh, rules from parameter path to PartitionSpec, batches by rows.

A rule is `(pattern, spec)`. The pattern is a regular expression, searched for in the parameter's
path joined by "/", for example "user_tower/block_0/kernel"; the first rule that matches decides,
and a parameter that no rule matches is replicated. The spec is a `PartitionSpec` or a function
`(shape, axis_sizes) -> PartitionSpec` such as `fsdp("data")`.

A dimension that its mesh axes do not divide is replicated instead: the same rules then serve any
number of devices, and only memory differs, never the result. Everything up to `partition_specs` is
a function of shapes and axis sizes and needs no device.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from experiments.harness.errors import InputError, bad_input

SpecFunction = Callable[[tuple[int, ...], Mapping[str, int]], PartitionSpec]
Rule = tuple[str, PartitionSpec | SpecFunction]


def fsdp(axis: str = "data", *, min_size: int = 2**14) -> SpecFunction:
    """Make a rule that shards the largest dimension that `axis` divides (FSDP).

    Arrays with fewer than `min_size` elements stay replicated: gathering them costs more than
    keeping them.
    """

    def spec(shape: tuple[int, ...], axis_sizes: Mapping[str, int]) -> PartitionSpec:
        dividing = [i for i, size in enumerate(shape) if size % axis_sizes[axis] == 0]
        if math.prod(shape) < min_size or not dividing:
            return PartitionSpec()
        largest = max(dividing, key=lambda i: shape[i])
        return PartitionSpec(*(axis if i == largest else None for i in range(len(shape))))

    return spec


LAYOUTS: dict[str, Sequence[Rule]] = {
    "replicated": (),
    "fsdp": (("", fsdp("data")),),
    "rows": (("embedding$", PartitionSpec("data")),),  # of tables; a row's features stay together
}


def rules_of(layout: str) -> Sequence[Rule]:
    """Return the rules that `--layout` names."""
    return LAYOUTS[layout]


def partition_spec(
    path: str, shape: tuple[int, ...], *, rules: Sequence[Rule], axis_sizes: Mapping[str, int]
) -> PartitionSpec:
    """Look up the spec of one parameter and replicate the dimensions that do not divide.

    Raises:
        ValueError: the matching spec has more entries than the parameter has dimensions, or names
            an axis that the mesh does not have.
    """
    for pattern, target in rules:
        if re.search(pattern, path):
            spec = target(shape, axis_sizes) if callable(target) else target
            return _fit(path, shape, spec=spec, axis_sizes=axis_sizes)
    return PartitionSpec()


def _fit(
    path: str, shape: tuple[int, ...], *, spec: PartitionSpec, axis_sizes: Mapping[str, int]
) -> PartitionSpec:
    if len(spec) > len(shape):
        raise ValueError(
            f"{path}: expected at most {len(shape)} entries, one a dimension, found {spec}"
        )
    return PartitionSpec(
        *(
            entry if size % _divisor(path, entry, axis_sizes=axis_sizes) == 0 else None
            for entry, size in zip(spec, shape, strict=False)
        )
    )


def _divisor(path: str, entry: Any, *, axis_sizes: Mapping[str, int]) -> int:
    names = () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
    for name in names:
        if name not in axis_sizes:
            raise ValueError(f"{path}: expected axes of {sorted(axis_sizes)}, found {name!r}")
    return math.prod(axis_sizes[name] for name in names)


def partition_specs(tree: Any, *, rules: Sequence[Rule], axis_sizes: Mapping[str, int]) -> Any:
    """Map every leaf of a tree of arrays or shapes to its `PartitionSpec`.

    Raises:
        InputError: a rule's pattern is found in no path: it would shard nothing.
    """
    paths = [key_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    for pattern, _ in rules:
        if not any(re.search(pattern, path) for path in paths):
            expected = f"a pattern found in one of {', '.join(paths)}"
            raise bad_input("rules of the layout", expected=expected, found=repr(pattern))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: partition_spec(
            key_path(path), leaf.shape, rules=rules, axis_sizes=axis_sizes
        ),
        tree,
    )


def key_path(path: tuple[Any, ...]) -> str:
    """Join a pytree path by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def param_shardings(tree: Any, mesh: Mesh, *, rules: Sequence[Rule] = ()) -> Any:
    """Map every leaf of a tree of arrays or shapes to its `NamedSharding`."""
    specs = partition_specs(tree, rules=rules, axis_sizes=dict(mesh.shape))
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def replicated(mesh: Mesh) -> NamedSharding:
    """Place one whole copy on every device of the mesh."""
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(
    batch: Mapping[str, np.ndarray], mesh: Mesh, *, axis: str = "data"
) -> dict[str, jax.Array]:
    """Put a batch on the mesh, the first dimension of every array dealt over `axis`.

    Raises:
        InputError: a batch size that the axis does not divide. Arrays without dimensions are
            replicated.
    """
    return {name: _shard_rows(name, rows, mesh=mesh, axis=axis) for name, rows in batch.items()}


def _shard_rows(name: str, rows: np.ndarray, *, mesh: Mesh, axis: str) -> jax.Array:
    if np.ndim(rows) == 0:
        return put(rows, replicated(mesh))
    if len(rows) % mesh.shape[axis]:
        raise InputError(
            f"batch size: expected a multiple of the {mesh.shape[axis]} devices, "
            f"found {len(rows)} rows in {name!r}"
        )
    return put(rows, NamedSharding(mesh, PartitionSpec(axis)))


def readable(tree: Any, mesh: Mesh) -> Any:
    """Return arrays that this process can read whole: of several processes, on every device."""
    if jax.process_count() == 1:
        return tree
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)


def own_copy(tree: Any) -> Any:
    """Return arrays on a device of this process alone, for what it computes without the others.

    Where an array is dealt over several processes, all of them must ask.
    """
    dealt = [leaf for leaf in jax.tree.leaves(tree) if not _is_own(leaf)]
    if not dealt:
        return tree
    whole = readable(tree, dealt[0].sharding.mesh)
    return jax.tree.map(lambda leaf: leaf if _is_own(leaf) else leaf.addressable_data(0), whole)


def _is_own(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable


def put(value: np.ndarray, sharding: Sharding) -> jax.Array:
    """Place what every process holds whole; each sends to its own devices what they keep."""
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    return jax.make_array_from_callback(np.shape(value), sharding, lambda part: value[part])
