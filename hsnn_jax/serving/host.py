"""What a search found, from the device to the host."""

from typing import Any

import jax
import numpy as np


def on_host(tree: Any) -> Any:
    """Return a pytree as numpy arrays, which may not be written to.

    As `jax.device_get`, which takes 8 us per array on a CPU, where numpy's view takes 1: a single
    request has seven of them. From another device all are sent before the first is waited for.
    """
    if jax.default_backend() != "cpu":
        for leaf in jax.tree.leaves(tree):
            if isinstance(leaf, jax.Array):
                leaf.copy_to_host_async()
    return jax.tree.map(np.asarray, tree)
