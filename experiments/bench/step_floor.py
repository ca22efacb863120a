"""The floor of a Shampoo step: the bare arithmetic that no implementation avoids.

Blocks of true size, without padding, grouped by shape: for a block G [a, b] the products G G^T,
G^T G, X G and (X G) Y; a side without a factor has none. They go through the stack in chunks, as a
step's do, the fastest way known on a CPU. Accumulators are donated. No norms, moments, packing,
copies or communication.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from experiments.bench.parameter_sets import Shapes
from shampoo_jax import Blocks
from shampoo_jax.plan import make_plan
from shampoo_jax.products import along_all, gram, in_chunks


class Kind(NamedTuple):
    """Blocks that do the same work: their true shape, and the sides that have a factor."""

    shape: tuple[int, ...]
    sides: tuple[int, ...]


def block_kinds(shapes: Shapes, *, block_size: int) -> dict[Kind, int]:
    """Count the blocks of each kind that has a factor, longest side first."""
    plan = make_plan(tuple(shapes.values()), Blocks(block_size=block_size, round_to=1))
    counts: Counter = Counter()
    for pool in plan.pools:
        if pool.preconditioned:
            counts.update(Kind(tuple(map(int, s)), pool.preconditioned) for s in pool.sizes)
    return dict(counts)


def _draw(shape: tuple[int, ...], seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def products(shapes: Shapes, *, block_size: int) -> Callable[[], Any]:
    """Return a call that does one step's products on drawn blocks."""
    kinds = block_kinds(shapes, block_size=block_size)
    blocks = [_draw((n, *kind.shape), i) for i, (kind, n) in enumerate(kinds.items())]
    sides = [kind.sides for kind in kinds]
    factors = [
        [jnp.zeros((n, kind.shape[k], kind.shape[k])) for k in kind.sides]
        for kind, n in kinds.items()
    ]
    roots = jax.tree.map(lambda x: x + jnp.eye(x.shape[-1])[None], factors)

    def one(g, sides, factors, roots):
        def add(factors, g):
            return tuple(factor + gram(g, k) for k, factor in zip(sides, factors))

        new = in_chunks(add, tuple(factors), g, block=g.shape[1:])
        return new, along_all(g, roots, sides)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(factors, blocks, roots):  # all are arguments, or XLA would fold the products away
        pairs = [one(*kind) for kind in zip(blocks, sides, factors, roots)]
        return [f for f, _ in pairs], [p for _, p in pairs]

    carry = [factors]

    def call():
        carry[0], directions = step(carry[0], blocks, roots)
        return carry[0], directions

    return call


def eigendecompositions(shapes: Shapes, *, block_size: int) -> Callable[[], Any]:
    """Return a call that decomposes every factor once, one after the other."""
    sides: Counter = Counter()
    for kind, n in block_kinds(shapes, block_size=block_size).items():
        for k in kind.sides:
            sides[kind.shape[k]] += n
    grams = []
    for i, (side, n) in enumerate(sides.items()):
        x = _draw((n, side, 2 * side), 1000 + i)
        grams.append(jnp.einsum("nij,nkj->nik", x, x) / side)

    def decompose(grams):
        one = lambda a: lax.linalg.eigh(a, symmetrize_input=False)  # noqa: E731
        return [lax.map(one, a) for a in grams]

    jitted = jax.jit(decompose)
    return lambda: jitted(grams)
