"""Training that has diverged is noticed: NaN and infinity stop it in one line."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_losses(losses: np.ndarray) -> None:
    """Refuse a loss that is NaN or infinite.

    Args:
      losses: f32[n] on the host, one per step.

    Raises:
      FloatingPointError: names the first such step.
    """
    broken = np.flatnonzero(~np.isfinite(losses))
    if len(broken):
        raise FloatingPointError(
            f"loss: expected a finite number, found {losses[broken[0]]} at step {broken[0]}"
        )


def check_arrays(name: str, tree: Any) -> None:
    """Refuse arrays that have NaN or infinity.

    Args:
      name: what the arrays are.
      tree: f32 arrays.

    Raises:
      FloatingPointError: names the first such array.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    finite = jax.device_get(_finite([leaf for _, leaf in leaves]))
    for (path, _), is_finite in zip(leaves, finite):
        if not is_finite:
            where = "/".join(str(getattr(key, "key", key)) for key in path)
            raise FloatingPointError(
                f"{name}: expected finite numbers, found NaN or infinity{where and ' in '}{where}"
            )


@jax.jit
def _finite(leaves):
    return [jnp.all(jnp.isfinite(leaf)) for leaf in leaves]
