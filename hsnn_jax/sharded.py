"""Search over a mesh: lists and item tiles sharded by node, one all-gather of local answers."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from hsnn_jax.descend import SearchResult, local_search, result
from hsnn_jax.index import Index, Tiles
from hsnn_jax.search import prepare
from hsnn_jax.top_k import top_k


def shard_index(index: Index, tiles: Tiles, mesh, *, axis: str) -> tuple[Index, Tiles]:
    """Spread lists and tiles over a mesh axis by node; everything else is replicated.

    Raises:
      ValueError: the devices of the axis do not divide the number of nodes.
    """
    devices, num_nodes = mesh.shape[axis], index.nodes.shape[0]
    if num_nodes % devices:
        raise ValueError(
            f"the {devices} devices of axis {axis!r} must divide the number of nodes, "
            f"got {num_nodes} nodes"
        )
    by_node, everywhere = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((axis,), ()))
    replicated = jax.device_put(index, everywhere)
    lists = jax.device_put(index.lists, by_node)
    return replicated._replace(lists=lists), jax.device_put(tiles, by_node)


def sharded_search(
    scorer, params, index: Index, tiles: Tiles, users, k: int, *, mesh, axis: str, **options
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
      ValueError: as `search`.
    """
    request, static = prepare(scorer, params, index, users, k, **options)
    return _sharded_search(index, tiles, request, static=static, mesh=mesh, axis=axis)


@functools.partial(jax.jit, static_argnames=("static", "mesh", "axis"))
def _sharded_search(index, tiles, request, *, static, mesh, axis):
    def of_device(index, tiles, request):
        first_node = jax.lax.axis_index(axis) * index.lists.shape[0]
        ids, scores, *cost = local_search((index,), tiles, request, static, first_node)
        return *_join(ids, scores, static.k, axis), *cost

    everywhere, by_node = PartitionSpec(), PartitionSpec(axis)
    index_spec = Index(*[everywhere] * len(index))._replace(lists=by_node)
    # What the gather returns is the same on all devices; the type system cannot know it.
    found = jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=(index_spec, by_node, everywhere),
        out_specs=everywhere,
        check_vma=False,
    )(index, tiles, request)
    return result(found, (index,), tiles, request, static)


def _join(ids, scores, k, axis):
    """Gather every device's candidates in one collective and keep the best k."""
    bits = jax.lax.bitcast_convert_type(scores, jnp.int32)
    gathered = jax.lax.all_gather(jnp.stack([ids, bits]), axis, axis=2, tiled=True)
    return top_k(jax.lax.bitcast_convert_type(gathered[1], scores.dtype), gathered[0], k)
