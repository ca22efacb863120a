"""Symmetric matrices as their upper triangles: half the bytes, bit for bit the same.

May import: nothing of shampoo_jax.
"""

import functools
import math
from typing import TypeVar

import jax
import numpy as np

Array = TypeVar("Array", jax.Array, np.ndarray)


def packed_size(side: int) -> int:
    """Return the number of elements on and above the diagonal."""
    return side * (side + 1) // 2


def side_of(size: int) -> int:
    """Return the side of the matrix that `packed_size` gives a size for."""
    return (math.isqrt(8 * size + 1) - 1) // 2


def pack(a: Array) -> Array:
    """Return the upper triangle of `[..., d, d]`, row by row: `[..., d (d + 1) / 2]`."""
    side = a.shape[-1]
    rows, columns = np.triu_indices(side)
    return a.reshape(*a.shape[:-2], side * side)[..., rows * side + columns]


def unpack(packed: Array) -> Array:
    """Return the symmetric matrices `[..., d, d]` of `pack`."""
    return packed[..., _places(side_of(packed.shape[-1]))]


@functools.cache
def _places(side: int) -> np.ndarray:
    """Where each element of the matrix stands in its packed form, int `[d, d]`."""
    places = np.zeros((side, side), np.int32)
    triangle = np.triu_indices(side)
    places[triangle] = places.T[triangle] = np.arange(packed_size(side))
    return places
