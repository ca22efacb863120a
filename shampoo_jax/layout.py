"""Leaves to pools and back: stacking, padding, splitting, all by static slices."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from shampoo_jax.plan import Family, Piece, Plan, Pool, View


def _slices(piece: Piece) -> tuple[slice, ...]:
    extents = (c * b for c, b in zip(piece.counts, piece.block))
    return tuple(slice(s, s + e) for s, e in zip(piece.start, extents))


def _split(x: jax.Array, piece: Piece, pool: Pool) -> jax.Array:
    """Cut a family `[parameters, *merged]` into the rows `[n, *dims]` of one piece."""
    order = len(piece.block)
    grid = [size for pair in zip(piece.counts, piece.block) for size in pair]
    x = x[(slice(None), *_slices(piece))].reshape(x.shape[0], *grid)
    outer = [1 + 2 * k for k in range(order)]
    inner = [2 + 2 * k for k in piece.perm]
    x = x.transpose(0, *outer, *inner)
    x = x.reshape(-1, *(piece.block[k] for k in piece.perm))
    padding = [(0, d - s) for d, s in zip(pool.dims, x.shape[1:])]
    return jnp.pad(x, [(0, 0), *padding])


def _join(rows: jax.Array, piece: Piece, parameters: int) -> jax.Array:
    """Undo `_split`: rows `[n, *dims]` to `[parameters, *extents]`."""
    order = len(piece.block)
    sizes = tuple(piece.block[k] for k in piece.perm)
    x = rows[(slice(None), *(slice(0, s) for s in sizes))]
    x = x.reshape(parameters, *piece.counts, *sizes)
    axes = [0]
    for k in range(order):
        axes += [1 + k, 1 + order + piece.perm.index(k)]
    extents = (c * b for c, b in zip(piece.counts, piece.block))
    return x.transpose(axes).reshape(parameters, *extents)


def _is_ordered(perm: tuple[int, ...]) -> bool:
    return perm == tuple(range(len(perm)))


def _read(leaf: jax.Array, view: View) -> jax.Array:
    """Read a leaf as `[batch, *merged]`."""
    x = leaf if _is_ordered(view.perm) else leaf.transpose(view.perm)
    return x.reshape(view.batch, *view.merged)


def _write(x: jax.Array, view: View, shape: tuple[int, ...]) -> jax.Array:
    """Undo `_read`."""
    if _is_ordered(view.perm):
        return x.reshape(shape)
    x = x.reshape([shape[k] for k in view.perm])
    return x.transpose([view.perm.index(k) for k in range(len(shape))])


def _stack_family(
    leaves: Sequence[jax.Array], plan: Plan, family: Family, dtype: DTypeLike
) -> jax.Array:
    """Stack the parameters of a family as `[parameters, *merged]`."""
    own = [_read(leaves[i], plan.views[i]) for i in family.leaves]
    return (jnp.concatenate(own) if len(own) > 1 else own[0]).astype(dtype)


def to_pools(
    leaves: Sequence[jax.Array], plan: Plan, *, devices: int, dtype: DTypeLike
) -> list[jax.Array]:
    """Return every pool `[rows, *dims]`, padded with zeros to a multiple of `devices` rows."""
    families = [_stack_family(leaves, plan, family, dtype) for family in plan.families]
    pools = []
    for pool in plan.pools:
        rows = [_split(families[piece.family], piece, pool) for piece in pool.pieces]
        missing = pool.rows(devices) - pool.num_blocks
        if missing:
            rows.append(jnp.zeros((missing, *pool.dims), dtype))
        pools.append(jnp.concatenate(rows) if len(rows) > 1 else rows[0])
    return pools


def _assemble(parts: Sequence[tuple[Piece, jax.Array]], shape: tuple[int, ...]) -> jax.Array:
    """Put the pieces of a family together as `[parameters, *merged]`."""
    if len(parts) == 1:
        return parts[0][1]
    whole = jnp.zeros(shape, parts[0][1].dtype)
    for piece, values in parts:
        whole = whole.at[(slice(None), *_slices(piece))].set(values)
    return whole


def _unstack(whole: jax.Array, batches: Sequence[int], count: jax.Array) -> list[jax.Array]:
    """Take a family `[parameters, *merged]` apart: `[batch, *merged]` per leaf.

    XLA:CPU compiles kernels that differ in a constant one by one, 10 ms each, and equal ones
    once: there the rows are read at starts that it cannot fold (`count` is at least 1).
    """
    first = [sum(batches[:i]) for i in range(len(batches))]

    def static(whole):
        return [whole[row : row + n] for row, n in zip(first, batches)]

    def dynamic(whole):
        starts = lax.cond(
            count > 0,
            lambda: [jnp.int32(i) for i in first],
            lambda: [jnp.int32(0) for _ in first],
        )
        zeros = [jnp.int32(0)] * (whole.ndim - 1)
        sizes = whole.shape[1:]
        return [lax.dynamic_slice(whole, (i, *zeros), (n, *sizes)) for i, n in zip(starts, batches)]

    if len(batches) == 1:
        return [whole]
    return lax.platform_dependent(whole, cpu=dynamic, default=static)


def rows_of_leaf(leaf: jax.Array, view: View, piece: Piece, pool: Pool) -> jax.Array:
    """Return the rows `[n, *dims]` that a piece of its family makes of one leaf."""
    return _split(_read(leaf, view), piece, pool)


def leaf_of_rows(
    parts: Sequence[tuple[Piece, jax.Array]], view: View, shape: tuple[int, ...], dtype: DTypeLike
) -> jax.Array:
    """Undo `rows_of_leaf` of all pieces of one leaf; one without elements comes back empty."""
    if not parts:
        return jnp.zeros(shape, dtype)
    joined = [(piece, _join(rows, piece, view.batch)) for piece, rows in parts]
    return _write(_assemble(joined, (view.batch, *view.merged)), view, shape)


def from_pools(
    pools: Sequence[jax.Array], plan: Plan, dtypes: Sequence, count: jax.Array
) -> list[jax.Array]:
    """Undo `to_pools` at step `count`, from 1; leaves without elements come back empty."""
    parts: list[list[tuple[Piece, jax.Array]]] = [[] for _ in plan.families]
    for pool, rows in zip(plan.pools, pools):
        for piece in pool.pieces:
            n = plan.families[piece.family].count
            own = rows[piece.row : piece.row + n * piece.blocks_per_parameter]
            parts[piece.family].append((piece, _join(own, piece, n)))
    leaves = [jnp.zeros(shape, dtype) for shape, dtype in zip(plan.shapes, dtypes)]
    for family, pieces in zip(plan.families, parts):
        whole = _assemble(pieces, (family.count, *family.merged))
        for i, own in zip(family.leaves, _unstack(whole, family.batches, count)):
            leaves[i] = _write(own, plan.views[i], plan.shapes[i]).astype(dtypes[i])
    return leaves
