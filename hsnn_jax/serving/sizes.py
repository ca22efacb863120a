"""Few sizes of requests: each new batch, k or width of exclusions would be another compilation."""

from typing import Any

import jax
import numpy as np

from hsnn_jax.chunks import num_rows

_LEAST = 16  # of k and of exclusions: what fewer would save is less than a compilation each


def batch_size(users: int) -> int:
    """Return the least of 1, 2, 4, 8, 16, 32, 48, 64, 96, 128, ... that is not below `users`."""
    size = power_of_two(users)
    return size * 3 // 4 if size > 32 and users <= size * 3 // 4 else size


def width(items: int) -> int:
    """Return the least of 16, 32, 64, ... that is not below `items`."""
    return max(power_of_two(items), _LEAST)


def power_of_two(size: int) -> int:
    """Return the least power of two that is not below `size`."""
    return 1 << max(size - 1, 0).bit_length()


def repeated(users: Any, size: int) -> Any:
    """Return a pytree of [size, ...] on the host: further rows repeat the last user."""
    more = size - num_rows(users)
    if not more:
        return users
    return jax.tree.map(
        lambda x: np.pad(x, ((0, more), *((0, 0),) * (np.ndim(x) - 1)), mode="edge"), users
    )
