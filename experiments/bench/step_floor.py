"""The floor of a Shampoo step: the bare arithmetic that no implementation avoids.

Blocks of true size, without padding, grouped by shape: for an order-2 block G [a, b] the products
G G^T, G^T G, X G and (X G) Y; for an order-1 block its outer product and one product. Accumulators
are donated. No norms, moments, copies or communication.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from experiments.bench.parameter_sets import Shapes
from shampoo_jax.plan import PlanConfig, make_plan


def block_shapes(shapes: Shapes, *, block_size: int) -> dict[tuple[int, ...], int]:
    """Count the blocks of each true shape, longest side first."""
    plan = make_plan(tuple(shapes.values()), PlanConfig(block_size=block_size, round_to=1))
    counts: Counter = Counter()
    for pool in plan.pools:
        counts.update(tuple(map(int, sizes)) for sizes in pool.sizes)
    return dict(counts)


def _draw(shape: tuple[int, ...], seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def products(shapes: Shapes, *, block_size: int) -> Callable[[], Any]:
    """Return a call that does one step's products on drawn blocks."""
    blocks = [
        _draw((n, *shape), i)
        for i, (shape, n) in enumerate(block_shapes(shapes, block_size=block_size).items())
    ]
    factors = [[jnp.zeros((g.shape[0], d, d)) for d in g.shape[1:]] for g in blocks]
    roots = jax.tree.map(lambda x: x + jnp.eye(x.shape[-1])[None], factors)

    def one(g, factors, roots):
        letters = "abcd"[: g.ndim - 1]
        new, p = [], g
        for k, (factor, root) in enumerate(zip(factors, roots)):
            other = letters.replace(letters[k], "z")
            new.append(factor + jnp.einsum(f"n{letters},n{other}->n{letters[k]}z", g, g))
            p = jnp.einsum(f"n{letters},nz{letters[k]}->n{other}", p, root)
        return new, p

    @functools.partial(jax.jit, donate_argnums=0)
    def step(factors, blocks, roots):  # all are arguments, or XLA would fold the products away
        pairs = [one(g, f, r) for g, f, r in zip(blocks, factors, roots)]
        return [f for f, _ in pairs], [p for _, p in pairs]

    carry = [factors]

    def call():
        carry[0], directions = step(carry[0], blocks, roots)
        return carry[0], directions

    return call


def eigendecompositions(shapes: Shapes, *, block_size: int) -> Callable[[], Any]:
    """Return a call that decomposes every factor once, one after the other."""
    sides: Counter = Counter()
    for shape, n in block_shapes(shapes, block_size=block_size).items():
        sides.update(dict.fromkeys(shape, 0))
        for side in shape:
            sides[side] += n
    grams = []
    for i, (side, n) in enumerate(sides.items()):
        x = _draw((n, side, 2 * side), 1000 + i)
        grams.append(jnp.einsum("nij,nkj->nik", x, x) / side)

    def decompose(grams):
        one = lambda a: lax.linalg.eigh(a, symmetrize_input=False)  # noqa: E731
        return [lax.map(one, a) for a in grams]

    jitted = jax.jit(decompose)
    return lambda: jitted(grams)
