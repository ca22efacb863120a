"""Search over a mesh: lists and item tiles sharded by node, one all-gather of local answers."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hsnn_jax.descent.descend import Level, SearchResult, local_search, result
from hsnn_jax.descent.search import prepare, prepare_levels
from hsnn_jax.lists.index import Index, Tiles
from hsnn_jax.lists.wide import WideTiles
from hsnn_jax.top_k import top_k

_Tree = TypeVar("_Tree")


def shard_index(index: Index, tiles: _Tree, *, mesh: Mesh, axis: str) -> tuple[Index, _Tree]:
    """Spread lists and tiles over a mesh axis by node; everything else is replicated.

    `tiles` may be a pytree of several `Tiles`.

    Raises:
      ValueError: see `check_axis`.
    """
    check_axis(mesh, axis, num_nodes=index.nodes.shape[0])
    by_node, everywhere = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((axis,), ()))
    replicated = jax.device_put(index, everywhere)
    lists = jax.device_put(index.lists, by_node)
    return replicated._replace(lists=lists), jax.device_put(tiles, by_node)


def auto_mesh(
    mesh: Mesh | None, axis: str | None, *, num_nodes: int | None
) -> tuple[Mesh, str] | None:
    """Return the mesh with Auto axes, since updates leave shardings to the compiler, and the axis.

    Args:
      mesh: None gives None.
      axis: of the mesh; the first one by default.
      num_nodes: that list items; None where their number is not known yet.

    Raises:
      ValueError: an axis without a mesh, or see `check_axis`.
    """
    if mesh is None:
        if axis is not None:
            raise ValueError(f"axis: expected none without a mesh, found {axis!r}")
        return None
    chosen: str = mesh.axis_names[0] if axis is None else axis
    check_axis(mesh, chosen, num_nodes=mesh.size if num_nodes is None else num_nodes)
    types = (AxisType.Auto,) * len(mesh.axis_names)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=types), chosen


def check_axis(mesh: Mesh, axis: str, *, num_nodes: int) -> None:
    """Raise a ValueError unless the mesh has this axis and its devices divide the nodes."""
    if axis not in mesh.axis_names:
        raise ValueError(f"axis: expected one of {', '.join(mesh.axis_names)}, found {axis!r}")
    devices = mesh.shape[axis]
    if num_nodes % devices:
        raise ValueError(
            f"num_nodes: expected a multiple of {devices}, the devices of axis {axis!r}, found "
            f"{num_nodes}"
        )


def sharded_search(
    scorer: Callable,
    params: Any,
    *,
    index: Index,
    tiles: Tiles,
    users: Any,
    k: int,
    mesh: Mesh,
    axis: str,
    **options: Any,
) -> SearchResult:
    """Search as `search` does, each device in the nodes it holds.

    Every device routes all users over all (replicated) nodes, which needs no exchange; then it
    scores the visited nodes that it owns, takes a local top k, and one all-gather of k ids and
    scores a device joins them. The answer is that of one device.

    Args:
      scorer, params, users, k: see `search`.
      index, tiles: from `shard_index`.
      mesh: the mesh.
      axis: name of the mesh axis that the nodes are spread over.
      **options: the keyword arguments of `search`.

    Raises:
      ValueError: tiles are none, or as `search`.
    """
    _check_tiles("tiles", tiles)
    request, static = prepare(scorer, params, index=index, users=users, k=k, **options)
    return _sharded_search((index,), tiles, request, static=static, mesh=mesh, axis=axis)


def sharded_search_levels(
    levels: Sequence,
    indexes: Sequence[Index],
    *,
    k: int,
    mesh: Mesh,
    axis: str,
    cheap: Level | None = None,
    **options: Any,
) -> SearchResult:
    """Search as `search_levels` does, each device in the items' lists that it holds.

    As in `sharded_search`, every device routes all users through all levels of nodes, and the
    lists of the last index alone are divided.

    Args:
      levels, indexes, k: see `search_levels`; the last index and the `Tiles` of the last level
        are from `shard_index`, all others are read whole by every device.
      mesh: the mesh.
      axis: name of the mesh axis that the last index's nodes are spread over.
      cheap: see `search_levels`; of `Tiles` too. The pool is that of all devices.
      **options: the keyword arguments of `search_levels`.

    Raises:
      ValueError: the last level's features are no tiles, or as `search_levels`.
    """
    levels, indexes = tuple(levels), tuple(indexes)
    tiles = levels[-1].features
    _check_tiles("levels[-1].features", tiles)
    request, static = prepare_levels(levels, indexes, k=k, cheap=cheap, **options)
    if cheap is not None:
        _check_tiles("cheap.features", cheap.features)
    given: dict[str, Any] = {"cheap_items": None if cheap is None else cheap.features}
    given |= {"static": static, "mesh": mesh, "axis": axis}
    return _sharded_search(indexes, tiles, request, **given)


@functools.partial(jax.jit, static_argnames=("static", "mesh", "axis"))
def _sharded_search(indexes, tiles, request, cheap_items=None, *, static, mesh, axis):
    def of_device(indexes, tiles, request, cheap_items):
        first_node = jax.lax.axis_index(axis) * indexes[-1].lists.shape[0]
        ids, scores, *cost = local_search(
            indexes,
            tiles,
            request=request,
            static=static,
            first_node=first_node,
            cheap_items=cheap_items,
            join=functools.partial(_join, axis=axis),
        )
        return *_join(ids, scores, static.k, axis=axis), *cost

    everywhere, by_node = PartitionSpec(), PartitionSpec(axis)
    last = jax.tree.map(lambda _: everywhere, indexes[-1])._replace(lists=by_node)
    # What the gather returns is the same on all devices; the type system cannot know it.
    found = jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=((*[everywhere] * (len(indexes) - 1), last), by_node, everywhere, by_node),
        out_specs=everywhere,
        check_vma=False,
    )(indexes, tiles, request, cheap_items)
    given = {"request": request, "static": static, "cheap_items": cheap_items}
    return result(found, indexes, items=tiles, **given)


def _check_tiles(name, features):
    # Rows of items would be divided in their own order, not in that of the lists.
    if not isinstance(features, Tiles | WideTiles):
        raise ValueError(
            f"{name}: expected Tiles from shard_index, found {type(features).__name__}"
        )


def _join(ids, scores, k, *, axis):
    """Gather every device's candidates in one collective and keep the best k."""
    bits = jax.lax.bitcast_convert_type(scores, jnp.int32)
    gathered = jax.lax.all_gather(jnp.stack([ids, bits]), axis, axis=2, tiled=True)
    return top_k(jax.lax.bitcast_convert_type(gathered[1], scores.dtype), gathered[0], k=k)
