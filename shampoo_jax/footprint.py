"""How much memory the state will take, before anything is allocated."""

import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

from shampoo_jax.options import Sharding
from shampoo_jax.state import ARRAYS
from shampoo_jax.transform import scale_by_shampoo


def _bytes(tree) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def memory(params: Any, *, devices: int = 1, **options: Any) -> dict[str, int]:
    """Return the bytes of the optimizer's state per device.

    Args:
      params: tree of arrays or ShapeDtypeStructs.
      devices: number of devices that share the blocks.
      **options: of `scale_by_shampoo`; `sharding` is not read.

    Returns:
      Bytes by field of the state (`factors`, `roots`, `filtered`, `graft`, ...) and their `total`.

    Raises:
      ValueError: as `scale_by_shampoo`, or `devices` < 1.
    """
    if devices < 1:
        raise ValueError(f"devices: expected at least 1, found {devices}")
    mesh = AbstractMesh((devices,), ("blocks",), axis_types=(AxisType.Auto,))
    given: dict[str, Any] = {**options, "sharding": Sharding(mesh=mesh)}
    tx = scale_by_shampoo(**given)
    pools = jax.eval_shape(tx.init, params).pools
    pools = pools if isinstance(pools, tuple) else ()
    by_field = {
        name: sum(_bytes(getattr(pool, name)) for pool in pools) // devices for name in ARRAYS
    }
    return by_field | {"total": sum(by_field.values())}
