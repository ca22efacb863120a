"""How Shampoo's blocks are dealt: their number, what the fullest device has, padding."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax

from shampoo_jax import record
from shampoo_jax.state import ShampooState


@dataclasses.dataclass(frozen=True)
class Dealing:
    """Blocks of all pools.

    Attributes:
      blocks: of the parameters, without padding rows.
      per_device: rows that a device holds and steps.
      imbalance: multiply-adds of a device over its even share of those that blocks need: rows and
        sides that are padding cost as much as others. 1 is ideal.
      direction_bytes: that a device gets in the all-gather of directions.
      root_flops: of the refreshes on a device, per step: 25 d^3 per factor of side d, about what an
        eigendecomposition (QR iterations, with vectors) and the product with its eigenvectors
        take; not read off the program, whose decompositions are library calls.
    """

    blocks: int = 0
    per_device: int = 0
    imbalance: float = 1.0
    direction_bytes: float = 0.0
    root_flops: float = 0.0

    @property
    def has_blocks(self) -> bool:
        """Whether the optimizer deals blocks at all."""
        return self.blocks > 0


ROOT = 25.0  # operations per d^3, Golub and Van Loan's count for symmetric QR with vectors, rounded


def dealing_of(opt_state: Any, devices: int, *, every: int = 10) -> Dealing:
    """Read the dealing off an optimizer's state of shapes.

    Args:
      opt_state: any optax state.
      devices: that share the blocks.
      every: steps between two refreshes of a block.
    """
    is_shampoo = lambda node: isinstance(node, ShampooState)  # noqa: E731
    states = [x for x in jax.tree.leaves(opt_state, is_leaf=is_shampoo) if is_shampoo(x)]
    pools = [pool for state in states for pool in state.pools]
    if not pools:
        return Dealing()
    true = padded = directions = roots = 0.0
    blocks = rows = 0
    for pool in pools:
        leaves = list(record.blocks(pool.record))
        count, dims = pool.last_refresh.shape[0], _dims(pool.record)
        exponents = leaves[0].exponents
        blocks += leaves[-1].rows.stop
        rows += count // devices
        true += sum((b.rows.stop - b.rows.start) * _work(b.sizes, exponents) for b in leaves)
        padded += count * _work(dims, exponents)
        directions += count * math.prod(dims) * 4
        sides = [d for d, e in zip(dims, exponents) if e]
        roots += count / devices / every * ROOT * sum(float(d) ** 3 for d in sides)
    return Dealing(blocks, rows, padded / true, directions, roots)


def _dims(pool: str) -> tuple[int, ...]:
    """Return the padded sides of the blocks of a pool that is so recorded."""
    unit = int(record.options(pool)["round_to"] or 1)
    sizes = {block.sizes for block in record.blocks(pool)}
    return tuple(-(-max(side) // unit) * unit for side in zip(*sizes))


def _work(sizes: tuple[int, ...], exponents: tuple[float, ...]) -> float:
    """Count a block's multiply-adds per step: products into each factor, and with each root."""
    area = math.prod(sizes)
    return area + sum(2.0 * area * size for size, e in zip(sizes, exponents) if e)
