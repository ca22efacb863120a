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

from shampoo_jax.plan import Plan, PlanConfig, Pool, Shape

# The options that decide the blocks; `max_pools` and `round_to` only decide how they are stacked.
BLOCK_OPTIONS = ("block_size", "target_dimensionality")


class Blocks(NamedTuple):
    """The blocks of one piece of one parameter, consecutive rows of a pool.

    Attributes:
      path: of the parameter, as `jax.tree_util.keystr` writes it.
      shape: of the parameter.
      start: first element of the piece in the merged shape.
      sizes: true size of a block along each dim of the pool.
      exponents: inverse exponent of each dim of the pool.
      rows: where they are.
    """

    path: str
    shape: Shape
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


def _options(config: PlanConfig) -> dict[str, int | None]:
    fields = (f.name for f in dataclasses.fields(config) if f.name != "exponents")
    return {name: getattr(config, name) for name in fields}


def write(pool: Pool, plan: Plan, paths: Sequence[str], config: PlanConfig) -> str:
    """Describe the rows of a pool of leaves that have these paths."""
    pieces = [
        {
            "leaves": [[paths[i], plan.shapes[i]] for i in plan.families[piece.family].leaves],
            "start": piece.start,
            "sizes": [piece.block[k] for k in piece.perm],
            "blocks": piece.blocks_per_leaf,
        }
        for piece in pool.pieces
    ]
    record = {"options": _options(config), "exponents": pool.exponents, "pieces": pieces}
    return json.dumps(record, separators=(",", ":"))


def paths(records: Iterable[str]) -> set[str]:
    """Return the paths of all parameters that have blocks."""
    return {b.path for record in records for b in blocks(record)}


def options(record: str) -> dict[str, int | None]:
    """Return the options of the plan."""
    return json.loads(record)["options"]


def blocks(record: str) -> Iterator[Blocks]:
    """List the blocks in the order of their rows."""
    content, row = json.loads(record), 0
    for piece in content["pieces"]:
        for path, shape in piece["leaves"]:
            yield Blocks(
                path=path,
                shape=tuple(shape),
                start=tuple(piece["start"]),
                sizes=tuple(piece["sizes"]),
                exponents=tuple(content["exponents"]),
                rows=slice(row, row + piece["blocks"]),
            )
            row += piece["blocks"]


def check(found: Sequence[str], expected: Sequence[str]) -> None:
    """Compare the records of a state with those of the transformation that is given it.

    Paths are left out: parameters may come back in another container with the same leaves.

    Raises:
      ValueError: an option or the shapes of the parameters differ.
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
        same = _shapes(found) == _shapes(expected)
        name = "exponents" if same else "params"
        raise ValueError(
            f"{name}: expected those that the state was made with, "
            f"found {_exponents(expected) if same else _shapes(expected)}"
        )


def _shapes(records) -> list[Shape]:
    return sorted(b.shape for record in records for b in blocks(record) if not any(b.start))


def _exponents(records) -> list[tuple[float, ...]]:
    return sorted({b.exponents for record in records for b in blocks(record)})
