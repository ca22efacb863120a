"""Sharded gradients that are too large to be whole at once: gathered and shared in rounds.

A device keeps the rows of its own blocks alone. In each round it gathers the gradients of a few
leaves, copies its rows out of them, and lets them go. The directions leave by a reduce-scatter per
round, to which a device adds its own rows, and zeros elsewhere: a sum that is exact. The bytes that
cross the network are those of one gather and one scatter of everything; the memory is that of one
round. Rounds of equal leaves, or layers of a stack, are a loop, so that the program does not grow
with their number (and no compiler moves all gathers to its beginning).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike, DTypeLike

from shampoo_jax import distribution, layout
from shampoo_jax.plan import Piece, Plan, View


class _Run(NamedTuple):
    """Rows [first, first + size) of a pool: what a piece of its family makes of a unit."""

    pool: int
    piece: Piece
    first: int
    size: int


class Unit(NamedTuple):
    """A leaf, or one layer of a leaf that is too large and a stack along its first axis."""

    leaf: int
    layer: int | None
    shape: tuple[int, ...]
    spec: P
    view: View
    runs: tuple[_Run, ...]


# Units of one round are whole at the same time; where there are several rounds, the unit at a place
# is like all others at that place.
Rounds = Sequence[Sequence[Unit]]


def rounds_of(
    leaves: Sequence[jax.Array], specs: Sequence[P], plan: Plan, *, most: int
) -> list[Rounds]:
    """Deal the leaves into rounds of at most `most` bytes of sharded ones.

    Args:
      leaves: whole, or their shapes.
      specs: of each.
      plan: of the leaves.
      most: bytes; a larger leaf that is no stack is a round by itself.

    Returns:
      Loops over equal units where these are more than `most`, and single rounds of all others. One
      single round holds everything where that is possible.
    """
    alike: dict = {}
    runs = _runs(plan)
    for i, (leaf, spec) in enumerate(zip(leaves, specs)):
        whole = Unit(i, None, leaf.shape, spec, plan.views[i], tuple(runs[i]))
        size = _size(leaf, spec)
        layers = _layers(whole) if size > most else 0
        for unit in [_layer(whole, number) for number in range(layers)] or [whole]:
            key = (unit.shape, leaf.dtype, unit.spec, unit.view)
            alike.setdefault((key, size // (layers or 1)), []).append(unit)
    loops: list[Rounds] = []
    others: list[list[Unit]] = [[]]
    room = most
    for (_, size), members in alike.items():
        each = max(1, most // size) if size else len(members)
        count = len(members) // each
        if count > 1:
            loops.append([members[n * each : (n + 1) * each] for n in range(count)])
            members = members[count * each :]
        for unit in members:
            if others[-1] and size > room:
                others.append([])
                room = most
            others[-1].append(unit)
            room -= size
    return loops + [[single] for single in others if single]


def _size(leaf, spec):
    """Return the bytes that are gathered."""
    return leaf.size * leaf.dtype.itemsize if distribution.is_sharded(spec) else 0


def _layers(unit: Unit) -> int:
    """Return the number of layers along the first axis; 0 where it is no stack, or in parts."""
    view, whole = unit.view, not distribution.is_sharded(P(*unit.spec[:1]))
    stacked = view.batch > 1 and view.perm[0] == 0 and unit.shape[0] > 1
    return unit.shape[0] if stacked and whole else 0


def _layer(unit: Unit, number: int) -> Unit:
    """Return one layer of a stack."""
    count = unit.shape[0]
    perm = tuple(axis - 1 for axis in unit.view.perm[1:])
    view = dataclasses.replace(unit.view, perm=perm, batch=unit.view.batch // count)
    runs = (
        run._replace(first=run.first + number * (run.size // count), size=run.size // count)
        for run in unit.runs
    )
    return Unit(unit.leaf, number, unit.shape[1:], P(*unit.spec[1:]), view, tuple(runs))


def gather_rows(
    leaves: Sequence[jax.Array],
    plan: Plan,
    *,
    all_rounds: Sequence[Rounds],
    devices: distribution.Devices,
    dtype: DTypeLike,
) -> list[jax.Array]:
    """Return this device's rows `[n, *dims]` of every pool, inside the body.

    Args:
      leaves: this device's shards of gradients or parameters.
      plan: of the whole leaves.
      all_rounds: from `rounds_of`.
      devices: who shares the blocks, of a mesh.
      dtype: of the rows.
    """
    mesh = _mesh(devices)
    sizes = [pool.rows(devices.count) // devices.count for pool in plan.pools]
    rows = [jnp.zeros((n, *pool.dims), dtype) for n, pool in zip(sizes, plan.pools)]
    last: list[jax.Array] = []
    for rounds in all_rounds:
        units = rounds[0]

        def take(rows, given, units=units):
            shards, places = given
            whole = distribution.gather_leaves(shards, [unit.spec for unit in units], mesh)
            rows = list(rows)
            for unit, leaf, starts in zip(units, whole, places):
                for run, start in zip(unit.runs, starts):
                    new = layout.rows_of_leaf(leaf, unit.view, run.piece, plan.pools[run.pool])
                    rows[run.pool] = _put(rows[run.pool], new.astype(dtype), start, devices)
            return rows, None

        shards = [[_shard(leaves, own[place]) for own in rounds] for place in range(len(units))]
        rows = _over(rounds, take, rows, shards, after=last)[0]
        last = [rows[run.pool] for unit in units for run in unit.runs[-1:]]
    return rows


def scatter_directions(
    rows: Sequence[jax.Array],
    count: int,
    *,
    all_rounds: Sequence[Rounds],
    devices: distribution.Devices,
    dtype: DTypeLike | None,
) -> list[jax.Array]:
    """Return this device's shards of the directions of all leaves, inside the body.

    Args:
      rows: `[n, *dims]` of every pool, this device's.
      count: of leaves.
      all_rounds, devices: as in `gather_rows`.
      dtype: that crosses the network; None = that of the rows.
    """
    mesh, own = _mesh(devices), rows[0].dtype
    found: list[list[jax.Array]] = [[] for _ in range(count)]  # by layer, where there are some
    of_layers = set()
    last: list[jax.Array] = []
    for rounds in all_rounds:
        units = rounds[0]

        def give(rows, given, units=units):
            whole = []
            for unit, starts in zip(units, given[1]):
                parts = [
                    (run.piece, _taken(rows[run.pool], start, run.size, devices))
                    for run, start in zip(unit.runs, starts)
                ]
                leaf = layout.leaf_of_rows(parts, unit.view, unit.shape, own)
                whole.append(_once(leaf, devices, mesh).astype(dtype or own))
            return rows, distribution.scatter_leaves(whole, [unit.spec for unit in units], mesh)

        rows, last = _over(rounds, give, rows, [], after=last)
        for number, units in enumerate(rounds):
            for unit, of_place in zip(units, last):
                found[unit.leaf].append(of_place[number].astype(own))
                if unit.layer is not None:
                    of_layers.add(unit.leaf)
    return [jnp.stack(x) if i in of_layers else x[0] for i, x in enumerate(found)]


def _shard(leaves: Sequence[jax.Array], unit: Unit) -> jax.Array:
    leaf = leaves[unit.leaf]
    return leaf if unit.layer is None else leaf[unit.layer]


def _over(rounds: Rounds, body, carry, stacks, *, after: Sequence[jax.Array]):
    """Call body(carry, (one of each stack, first rows of the units' runs)) for every round.

    What it reads depends on the arrays of `after`, see `_later`.

    Returns:
      (the last carry, what the rounds gave, stacked).
    """
    starts = [
        [[own[place].runs[number].first for own in rounds] for number in range(len(unit.runs))]
        for place, unit in enumerate(rounds[0])
    ]
    if len(rounds) == 1:
        given = jax.tree.map(lambda own: own[0], (stacks, starts), is_leaf=_is_of_rounds)
        carry, found = body(carry, _later(given, after))
        return carry, jax.tree.map(lambda x: x[None], found)
    shards = jax.tree.map(jnp.stack, stacks, is_leaf=_is_of_rounds)
    places = jax.tree.map(np.int32, starts, is_leaf=_is_of_rounds)
    return lax.scan(body, carry, _later((shards, places), after))


def _later(given, after: Sequence[jax.Array]):
    """Return the same arrays, computed from a zero that is computed from others.

    Rounds then come one after the other on every device. XLA for CPU drops barriers and takes
    independent collectives in any order, each on a thread of its own: with many rounds, devices
    wait for each other for ever.
    """
    for array in after:
        if array.size:
            x = array[(0,) * array.ndim]
            never = (x != x) & (x == x)
            given = jax.tree.map(
                lambda own, never=never: own + never.astype(jnp.result_type(own)), given
            )
            break
    return given


def _is_of_rounds(node) -> bool:
    """Whether a node is the list of what every round reads in one place."""
    return isinstance(node, list) and bool(node) and not isinstance(node[0], list)


def _mesh(devices: distribution.Devices) -> distribution.AnyMesh:
    assert devices.mesh is not None, "shards are those of a mesh"
    return devices.mesh


def _runs(plan: Plan) -> list[list[_Run]]:
    """Return the runs of every leaf."""
    runs: list[list[_Run]] = [[] for _ in plan.shapes]
    for number, pool in enumerate(plan.pools):
        for piece in pool.pieces:
            family, first = plan.families[piece.family], piece.row
            for leaf, batch in zip(family.leaves, family.batches):
                size = batch * piece.blocks_per_parameter
                runs[leaf].append(_Run(number, piece, first, size))
                first += size
    return runs


def _window(held: jax.Array, first: ArrayLike, size: int, devices: distribution.Devices):
    """Return (start, shift, width) of the held rows that a run may fill.

    Row start + j of those held is row shift + j of the run, which is outside of the run where the
    two do not meet.
    """
    place = first - devices.index() * held.shape[0]
    width = min(size, held.shape[0])
    start = jnp.clip(place, 0, held.shape[0] - width)
    return start, start - place, width


def _put(held: jax.Array, rows: jax.Array, first: ArrayLike, devices) -> jax.Array:
    """Copy what this device owns of a run's rows into those that it holds."""
    start, shift, width = _window(held, first, rows.shape[0], devices)
    number = shift + jnp.arange(width).reshape(-1, *[1] * (rows.ndim - 1))
    before = lax.dynamic_slice_in_dim(held, start, width)
    new = jnp.where((number >= 0) & (number < rows.shape[0]), _cut(rows, shift, width), before)
    return lax.dynamic_update_slice_in_dim(held, new, start, axis=0)


def _taken(held: jax.Array, first: ArrayLike, size: int, devices) -> jax.Array:
    """Return the rows of a run, zeros where another device owns them."""
    start, shift, width = _window(held, first, size, devices)
    return _cut(lax.dynamic_slice_in_dim(held, start, width), -shift, size)


def _cut(rows: jax.Array, start: jax.Array, size: int) -> jax.Array:
    """Return rows [start, start + size), zeros where there are none."""
    padded = jnp.pad(rows, [(size, size)] + [(0, 0)] * (rows.ndim - 1))
    return lax.dynamic_slice_in_dim(padded, jnp.clip(start + size, 0, rows.shape[0] + size), size)


def _once(leaf: jax.Array, devices: distribution.Devices, mesh) -> jax.Array:
    """Leave a direction to one of the devices that hold copies of its blocks."""
    others = [axis for axis in mesh.axis_names if axis not in devices.axes]
    if math.prod(mesh.shape[axis] for axis in others) == 1:
        return leaf
    return jnp.where(lax.axis_index(tuple(others)) == 0, leaf, 0)
