"""What the rows of a pool are, as text that travels inside the state.

A pool is numbers only. Which blocks they belong to, and which options cut those blocks, is written
down when the state is made. The text is static (aux data of the pytree node `PoolState`): jit,
scan, masks and all wrappers of optax carry it as part of the tree's structure, and it takes no
memory on a device. It is a `str` since that is hashable and every serialiser takes it.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from shampoo_jax.options import Blocks, Shape
from shampoo_jax.plan import Plan, Pool

# The options that decide the blocks; `max_pools` and `round_to` only decide how they are stacked.
BLOCK_OPTIONS = ("block_size", "target_dimensionality")


class LeafBlocks(NamedTuple):
    """The blocks of one piece of one leaf, consecutive rows of a pool.

    Attributes:
      path: of the leaf, as `jax.tree_util.keystr` writes it.
      shape: of the leaf.
      axes: number of parameters stacked in the leaf, and its axes in the order of reading.
      start: first element of the piece in the merged shape.
      sizes: true size of a block along each dim of the pool.
      exponents: inverse exponent of each dim of the pool.
      rows: where they are.
    """

    path: str
    shape: Shape
    axes: Shape
    start: Shape
    sizes: Shape
    exponents: tuple[float, ...]
    rows: slice

    @property
    def name(self) -> str:
        """Path and start: the same under any plan that cuts the parameter alike."""
        return f"{self.path}@{'_'.join(map(str, self.start)) or '0'}"


def leaf_paths(tree: Any) -> list[str]:
    """Return the path of every leaf."""
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def leaf_names(tree: Any) -> list[tuple[str, ...]]:
    """Return the names that lead to every leaf."""
    paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(tree))
    return [tuple(jax.tree_util.keystr((key,), simple=True) for key in path) for path in paths]


def _options(config: Blocks) -> dict[str, float | None]:
    fields = (f.name for f in dataclasses.fields(config) if f.name != "exponents")
    return {name: getattr(config, name) for name in fields}


def write(pool: Pool, plan: Plan, paths: Sequence[str], config: Blocks) -> str:
    """Describe the rows of a pool of leaves that have these paths."""

    def described(i: int) -> list:
        view = plan.views[i]
        return [paths[i], plan.shapes[i], [view.batch, *view.perm]]

    pieces = [
        {
            "leaves": [described(i) for i in plan.families[piece.family].leaves],
            "start": piece.start,
            "sizes": [piece.block[k] for k in piece.perm],
            "blocks": piece.blocks_per_parameter,
        }
        for piece in pool.pieces
    ]
    record = {"options": _options(config), "exponents": pool.exponents, "pieces": pieces}
    return json.dumps(record, separators=(",", ":"))


def paths(records: Iterable[str]) -> set[str]:
    """Return the paths of all parameters that have blocks."""
    return {b.path for record in records for b in blocks(record)}


def options(record: str) -> dict[str, float | None]:
    """Return the options of the plan."""
    return json.loads(record)["options"]


def blocks(record: str) -> Iterator[LeafBlocks]:
    """List the blocks in the order of their rows."""
    content, row = json.loads(record), 0
    for piece in content["pieces"]:
        for path, shape, axes in piece["leaves"]:
            rows = axes[0] * piece["blocks"]
            yield LeafBlocks(
                path=path,
                shape=tuple(shape),
                axes=tuple(axes),
                start=tuple(piece["start"]),
                sizes=tuple(piece["sizes"]),
                exponents=tuple(content["exponents"]),
                rows=slice(row, row + rows),
            )
            row += rows


def check(found: Sequence[str], expected: Sequence[str]) -> None:
    """Compare the records of a state with those of the transformation that is given it.

    Paths are left out: parameters may come back in another container with the same leaves.

    Raises:
      ValueError: an option, the parameters or the number of devices differ.
    """
    if list(found) == list(expected):
        return
    if found and expected:
        mine, own = options(expected[0]), options(found[0])
        for name, value in mine.items():
            if own[name] != value:
                raise ValueError(f"{name}: expected {own[name]} as in the state, found {value}")

    def anonymous(records):
        return [[b._replace(path="") for b in blocks(record)] for record in records]

    if anonymous(found) != anonymous(expected):
        for name, what in (
            ("params", _shapes),
            ("dimension_numbers", _axes),
            ("exponents", _kinds),
        ):
            if what(found) != what(expected):
                raise ValueError(
                    f"{name}: expected those that the state was made with, found {what(expected)}"
                )
        raise ValueError(
            f"state: expected the {len(expected)} pools of this number of devices, "
            f"found {len(found)} of another: init and update must see the same mesh"
        )


def _shapes(records) -> list[Shape]:
    return sorted(b.shape for record in records for b in blocks(record) if not any(b.start))


def _axes(records) -> list[tuple[Shape, Shape]]:
    return sorted((b.shape, b.axes) for r in records for b in blocks(r) if not any(b.start))


def _kinds(records) -> list[tuple[Shape, tuple[float, ...]]]:
    return sorted({(b.shape, b.exponents) for record in records for b in blocks(record)})
