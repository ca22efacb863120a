"""Run a batched function on few rows at a time, so that its working set stays bounded."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Values that a chunk holds, 8 MiB of float32: twice as fast on CPU as chunks of 128 MiB, which
# leave the caches. Never fewer rows than make a matrix product worth it, though.
_MAX_VALUES = 2**21
_MIN_ROWS = 32
# Operations for which a scorer is taken to hold one value of a pair while it works: those of an
# inner product of width 64. A MoNN L by all users at once would hold gigabytes.
_FLOPS_PER_VALUE = 128


def by_chunks(function: Callable, width: int, *arguments: Any) -> Any:
    """Apply a function of [rows, ...] pytrees to all rows, in equal chunks.

    Args:
      function: maps pytrees of [rows, ...] to pytrees of [rows, ...], row by row. Its last
        chunk is padded with zeros.
      width: values that the function holds for one row; static.
      *arguments: pytrees of [rows, ...]; None stays None.
    """
    rows = num_rows(arguments)
    chunks = -(-rows // max(_MIN_ROWS, _MAX_VALUES // width))
    if chunks <= 1:
        return function(*arguments)
    size = -(-rows // chunks)

    def split(x):
        padding = ((0, chunks * size - rows),) + ((0, 0),) * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(chunks, size, *x.shape[1:])

    results = jax.lax.map(lambda chunk: function(*chunk), jax.tree.map(split, arguments))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:rows], results)


def values_of(items: int, *, flops: float) -> int:
    """Estimate the values that scores of so many items hold for one user.

    Args:
      items: scored for each user.
      flops: operations of the scorer per item.
    """
    return items * max(1, round(flops / _FLOPS_PER_VALUE))


def num_rows(tree: Any) -> int:
    """Return the size of the leading axis that all leaves share."""
    return jax.tree.leaves(tree)[0].shape[0]
