"""The static plan: how parameters become blocks, and blocks become a few stacked pools.

Everything here is plain Python on shapes; nothing depends on values. The number of devices decides
which classes share a pool, and only where there are more than eight.
`init` and `update` compute the same plan anew (it is cached); what its rows are stands in the state
(record.py), so that checkpoints need no option repeated.

    leaf --merge--> merged shape --split--> blocks --orient, round--> class --merge--> pool

* A *view* says how a leaf is read: its axes reordered, a batch of equal parameters, dims merged.
* A *family* is the set of leaves with one merged shape; their parameters are stacked before they
  are split, so that the size of the program does not grow with the number of equal layers.
* A *piece* is a grid of equal blocks in every parameter of a family (a dim that block_size does not
  divide gives two pieces along it).
* A *pool* holds blocks `[N, *dims]` of one order and one tuple of inverse exponents, each padded
  with zeros from its true size to `dims`.

Rows of a pool are ordered by class, then true size, family, piece, leaf, batch and grid position. A
refresh phase is a block's position among all, ordered by true size, modulo the frequency. It
depends neither on rounding nor on how classes are merged into pools; equal blocks are dealt evenly
over phases and, since a device owns a contiguous range of rows, over devices.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from shampoo_jax.dimension_numbers import DimensionNumbers
from shampoo_jax.exponents import default_exponents
from shampoo_jax.options import Blocks, Shape

# Half of a pool's cost is that of its rows padded to a multiple of the devices. There are taken to
# be at least so many: up to here the mesh never changes the grouping, nor a bit of a result.
NOMINAL_DEVICES = 8
# What a pool costs by existing (compile time, kernel launches), in multiply-adds a step.
POOL_OVERHEAD = 2.0e5


@dataclasses.dataclass(frozen=True)
class View:
    """How a leaf is read.

    Attributes:
      perm: its axes in the order in which they are read, batch axes first.
      batch: number of parameters that it holds.
      merged: shape of each of them.
      exponents: inverse exponent of each dim; 0 = no factor.
      grafted: whether the grafting method alone gives its direction.
    """

    perm: Shape
    batch: int
    merged: Shape
    exponents: tuple[float, ...]
    grafted: bool


@dataclasses.dataclass(frozen=True)
class Family:
    """Leaves of one merged shape, their parameters stacked along a new first axis."""

    merged: Shape
    exponents: tuple[float, ...]
    grafted: bool
    leaves: tuple[int, ...]
    batches: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of parameters."""
        return sum(self.batches)


@dataclasses.dataclass(frozen=True)
class Piece:
    """A grid of equal blocks, the same in each parameter of a family.

    Attributes:
      family: index into `Plan.families`.
      start: first element, in the merged shape.
      counts: number of blocks along each dim.
      block: true size of a block along each dim.
      perm: order in which the dims of a block become the dims of the pool.
      row: first row in the pool; leaf-major, then batch, then row-major over the grid.
    """

    family: int
    start: Shape
    counts: Shape
    block: Shape
    perm: Shape
    row: int = 0

    @property
    def blocks_per_parameter(self) -> int:
        """Number of blocks in one parameter."""
        return math.prod(self.counts)


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Blocks stacked as `[N, *dims]`.

    Attributes:
      dims: padded size of each dim.
      exponents: inverse exponent of each dim; 0 = not preconditioned.
      grafted: whether the grafting method alone gives the directions.
      pieces: what the rows are, in row order.
      leaf: int32 `[N]`, the leaf of a row.
      sizes: int32 `[N, order]`, true sizes.
      position: int32 `[N]`, the row's place among all blocks of the plan; decides its phase.
    """

    dims: Shape
    exponents: tuple[float, ...]
    grafted: bool
    pieces: tuple[Piece, ...]
    leaf: np.ndarray
    sizes: np.ndarray
    position: np.ndarray

    @property
    def num_blocks(self) -> int:
        """Number of blocks, without padding rows."""
        return len(self.leaf)

    @property
    def preconditioned(self) -> tuple[int, ...]:
        """The dims that have a factor."""
        return tuple(k for k, e in enumerate(self.exponents) if e != 0)

    def rows(self, devices: int) -> int:
        """Return the number of rows when the pool is dealt over `devices`."""
        return -(-self.num_blocks // devices) * devices


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Views, families and pools of a list of leaves."""

    shapes: tuple[Shape, ...]
    views: tuple[View, ...]
    families: tuple[Family, ...]
    pools: tuple[Pool, ...]


def merge_dims(shape: Shape, *, target: int | None, limit: float) -> Shape:
    """Merge adjacent small dims, from the last to the first.

    Dims of size 1 are dropped; a dim joins the one after it while the product stays <= `limit` and
    more than `target` dims would be left. `target` None keeps the shape as it is.
    """
    if target is None:
        return shape
    dims = [size for size in shape if size != 1] or [1]
    merged, current = [], dims[-1]
    for i in reversed(range(len(dims) - 1)):
        if len(merged) + 1 + i + 1 > target and current * dims[i] <= limit:
            current *= dims[i]
        else:
            merged.append(current)
            current = dims[i]
    return tuple(reversed([*merged, current]))


def _chunks(size: int, limit: float) -> list[tuple[int, int, int]]:
    """Split one dim into (start, count, block) runs of equal blocks."""
    if size <= limit:
        return [(0, 1, size)]
    whole, rest = divmod(size, int(limit))
    runs = [(0, whole, int(limit))]
    return [*runs, (whole * int(limit), 1, rest)] if rest else runs


def _view(shape: Shape, roles: DimensionNumbers, config: Blocks) -> View:
    """Return how a leaf of this shape is read."""
    rest = tuple(k for k in range(len(shape)) if k not in roles.batch)
    sides = roles.sides
    perm = roles.batch + (rest if sides is None else tuple(k for side in sides for k in side))
    if sides is None:
        limit = config.block_size or math.inf
        target = config.target_dimensionality
        merged = merge_dims(tuple(shape[k] for k in rest), target=target, limit=limit)
    else:
        products = (math.prod(shape[k] for k in side) for side in sides)
        merged = tuple(size for size in products if size != 1) or (1,)
    exponents = _exponents(merged, config) if roles.precondition and 0 not in shape else None
    if exponents is None:  # elementwise: neither order nor batch matter
        return View(tuple(range(len(shape))), 1, (math.prod(shape),), (0.0,), True)
    return View(perm, math.prod(shape[k] for k in roles.batch), merged, exponents, False)


def _exponents(merged: Shape, config: Blocks) -> tuple[float, ...] | None:
    if config.exponents is None:
        size, limit = config.block_size, config.factor_limit
        return default_exponents(merged, block_size=size, factor_limit=limit)
    given = config.exponents(merged)
    if given is None:
        return None
    exponents = tuple(float(e) for e in given)
    if len(exponents) != len(merged) or min(exponents, default=0.0) < 0:
        raise ValueError(
            f"exponents: expected one non-negative number per dim of {merged}, found {exponents}"
        )
    return exponents


def _families(views: Sequence[View], shapes: Sequence[Shape]) -> tuple[Family, ...]:
    """Group the leaves that have elements."""
    groups: dict[tuple, list[int]] = {}
    for i, (view, shape) in enumerate(zip(views, shapes)):
        if 0 not in shape:
            groups.setdefault((view.merged, view.exponents, view.grafted), []).append(i)

    def family(leaves: list[int]) -> Family:
        first, batches = views[leaves[0]], tuple(views[i].batch for i in leaves)
        return Family(first.merged, first.exponents, first.grafted, tuple(leaves), batches)

    return tuple(family(leaves) for leaves in groups.values())


def _classes(families: Sequence[Family], config: Blocks) -> dict[tuple, list[Piece]]:
    """Return the oriented pieces by class: ((has factors, exponents), padded dims)."""
    limit = config.block_size or math.inf
    classes: dict[tuple, list[Piece]] = {}
    for index, family in enumerate(families):
        # Where the grafting method alone acts, a row has as many elements as a whole block.
        most = limit * limit if family.grafted else limit
        for runs in itertools.product(*(_chunks(size, most) for size in family.merged)):
            start, counts, block = zip(*runs) if runs else ((), (), ())
            perm = tuple(sorted(range(len(block)), key=lambda k: (-block[k], k)))
            dims = tuple(-(-block[k] // config.round_to) * config.round_to for k in perm)
            key = ((not family.grafted, tuple(family.exponents[k] for k in perm)), dims)
            piece = Piece(index, tuple(start), tuple(counts), tuple(block), perm)
            classes.setdefault(key, []).append(piece)
    for pieces in classes.values():
        pieces.sort(key=_sizes, reverse=True)
    return classes


def _sizes(piece: Piece) -> Shape:
    """Return the true size of a block along each dim of its pool."""
    return tuple(piece.block[k] for k in piece.perm)


def _row_cost(dims: np.ndarray, exponents: tuple[float, ...]) -> np.ndarray:
    """Multiply-adds a step of a block: products, and a tenth of its roots."""
    kept = np.asarray([e != 0 for e in exponents], dtype=float)
    area = np.prod(dims, axis=-1)
    return area + (2 * area[..., None] * dims * kept + 2 * dims**3 * kept).sum(-1)


def _merge_classes(
    dims: np.ndarray, counts: np.ndarray, exponents, *, most: int, devices: int
) -> list[list[int]]:
    """Merge classes greedily, cheapest first, until at most `most` remain and none gains."""
    groups = [[i] for i in range(len(dims))]
    dims, counts = dims.astype(float), counts.astype(float)

    def cost(d, n):
        rows = n + np.ceil(n / devices) * devices
        return rows / 2 * _row_cost(d, exponents) + POOL_OVERHEAD

    def increase(i):
        together = cost(np.maximum(dims, dims[i]), counts + counts[i])
        row = together - cost(dims, counts) - cost(dims[i], counts[i])
        row[i] = np.inf
        return row

    table = np.stack([increase(i) for i in range(len(dims))])
    while len(groups) > 1:
        i, j = sorted(np.unravel_index(np.argmin(table), table.shape))
        if len(groups) <= most and table[i, j] > 0:
            break
        groups[i] += groups.pop(j)
        dims[i], counts[i] = np.maximum(dims[i], dims[j]), counts[i] + counts[j]
        dims, counts = np.delete(dims, j, 0), np.delete(counts, j)
        table = np.delete(np.delete(table, j, 0), j, 1)
        table[i, :] = table[:, i] = increase(i)
    return groups


def _make_pool(keys, classes, families, position) -> Pool:
    """Lay the classes `keys` out as the rows of one pool."""
    pieces, leaf, sizes, places, row = [], [], [], [], 0
    for key in keys:
        for piece in classes[key]:
            family = families[piece.family]
            n = family.count * piece.blocks_per_parameter
            pieces.append(dataclasses.replace(piece, row=row))
            owners = np.repeat(family.leaves, family.batches)
            leaf.append(np.repeat(owners, piece.blocks_per_parameter))
            sizes.append(np.tile(_sizes(piece), (n, 1)))
            places.append(position[key, piece] + np.arange(n))
            row += n
    return Pool(
        dims=tuple(max(sizes_k) for sizes_k in zip(*(key[1] for key in keys))),
        exponents=keys[0][0][1],
        grafted=not keys[0][0][0],
        pieces=tuple(pieces),
        leaf=np.concatenate(leaf).astype(np.int32),
        sizes=np.concatenate(sizes).astype(np.int32),
        position=np.concatenate(places).astype(np.int32),
    )


def _budgets(groups: dict[tuple, list[tuple]], most: int) -> dict[tuple, int]:
    """Share `most` pools among groups by their number of classes, at least one each."""
    total = sum(len(keys) for keys in groups.values())
    return {e: max(1, int(most * len(keys) / total)) for e, keys in groups.items()}


@functools.lru_cache(maxsize=64)
def make_plan(
    shapes: tuple[Shape, ...],
    config: Blocks,
    roles: tuple[DimensionNumbers, ...] = (),
    *,
    devices: int = NOMINAL_DEVICES,
) -> Plan:
    """Plan the blocks and pools of leaves with these shapes.

    Args:
      shapes: the shapes of all leaves, in tree order; leaves without elements get no block.
      config: block size, merging of dims, exponents, cap on pools, rounding.
      roles: of the axes of each leaf, as `dimension_numbers.resolve` returns them; none = unknown.
      devices: over which the pools will be dealt.

    Raises:
      ValueError: `config.exponents` returns a wrong number of exponents, or negative ones.
    """
    roles = roles or (DimensionNumbers(),) * len(shapes)
    views = tuple(_view(shape, own, config) for shape, own in zip(shapes, roles, strict=True))
    families = _families(views, shapes)
    classes = _classes(families, config)

    def rows(piece: Piece) -> int:
        return families[piece.family].count * piece.blocks_per_parameter

    position, place = {}, 0
    pieces = [(key, piece) for key in sorted(classes, reverse=True) for piece in classes[key]]
    # Not by padded size: a block must keep its phase when round_to changes.
    for key, piece in sorted(pieces, key=lambda x: (x[0][0], _sizes(x[1])), reverse=True):
        position[key, piece] = place
        place += rows(piece)

    groups: dict[tuple, list[tuple]] = {}
    for key in sorted(classes, reverse=True):
        groups.setdefault(key[0], []).append(key)
    pools = []
    for kind, most in _budgets(groups, config.max_pools).items():
        keys = groups[kind]
        counts = np.array([sum(rows(piece) for piece in classes[key]) for key in keys])
        dims = np.array([key[1] for key in keys]).reshape(len(keys), len(kind[1]))
        share = {"most": most, "devices": max(devices, NOMINAL_DEVICES)}
        for members in _merge_classes(dims, counts, kind[1], **share):
            pools.append(
                _make_pool([keys[i] for i in sorted(members)], classes, families, position)
            )
    return Plan(shapes, views, families, tuple(pools))
