"""Which sides of a parameter keep a factor, and to which power it is taken."""

import math

from shampoo_jax.options import Shape

# A dim above this is not preconditioned by default (an embedding table's rows, a huge softmax).
MAX_PRECONDITIONED_DIM = 8192


def default_exponents(
    shape: Shape, *, block_size: int | None = 128, factor_limit: float | None = 6.0
) -> tuple[float, ...] | None:
    """Return the inverse exponent of each dim of a merged shape, None for scalars and vectors.

    1/2 for each dim that keeps a factor, 0 for others: the Kronecker product of the factors stands
    for the gradient's second moment, as Adam's squares do, and is taken to the power -1/2 as they
    are. The paper's exponents are smaller (`paper_exponents`); on characters they end higher.

    Dims above `MAX_PRECONDITIONED_DIM` have no factor: a long table is one-sided. Nor have, largest
    first, those whose factor and root would take more than `factor_limit` times the block
    (`Blocks.factor_limit`). A vector's would take twice its length times the vector.

    References:
      Morwani et al., `A New Perspective on Shampoo's Preconditioner
      <https://arxiv.org/abs/2406.17748>`_, 2024.
    """
    if len(shape) < 2:
        return None
    block = [min(size, block_size or size) for size in shape]
    costs = [2 * size * size / math.prod(block) for size in block]
    kept = {k for k, size in enumerate(shape) if size <= MAX_PRECONDITIONED_DIM}
    while kept and factor_limit is not None and sum(costs[k] for k in kept) > factor_limit:
        kept.remove(max(kept, key=lambda k: (costs[k], k)))
    return tuple(0.5 if k in kept else 0.0 for k in range(len(shape)))


def paper_exponents(
    shape: Shape, *, block_size: int | None = 128, factor_limit: float | None = 6.0
) -> tuple[float, ...] | None:
    """Return the exponents of the paper (section 3): 1 / (2 k) for each of k dims with a factor.

    Which dims those are, see `default_exponents`.
    """
    own = default_exponents(shape, block_size=block_size, factor_limit=factor_limit)
    if own is None:
        return None
    kept = sum(exponent > 0 for exponent in own)
    return tuple(exponent / max(kept, 1) for exponent in own)
