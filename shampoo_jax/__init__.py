"""Distributed Shampoo (arXiv 2309.06497) as an optax transform."""

from shampoo_jax import dimension_numbers, grafting, orthogonal, roots
from shampoo_jax.alias import shampoo, soap
from shampoo_jax.averaging import averaged, averaged_params
from shampoo_jax.checkpoint import from_canonical, to_canonical
from shampoo_jax.dimension_numbers import DimensionNumbers
from shampoo_jax.distribution import state_sharding
from shampoo_jax.exponents import default_exponents, paper_exponents
from shampoo_jax.footprint import memory
from shampoo_jax.health import Diagnostics, diagnostics
from shampoo_jax.kl import kl_shampoo, kl_soap
from shampoo_jax.options import Blocks, Momentum, Refresh, Root, Sharding
from shampoo_jax.state import PoolState, ShampooState
from shampoo_jax.transform import scale_by_shampoo

__version__ = "0.1.0"
__all__ = [
    "Blocks",
    "Diagnostics",
    "DimensionNumbers",
    "Momentum",
    "PoolState",
    "Refresh",
    "Root",
    "ShampooState",
    "Sharding",
    "averaged",
    "averaged_params",
    "default_exponents",
    "diagnostics",
    "dimension_numbers",
    "from_canonical",
    "grafting",
    "kl_shampoo",
    "kl_soap",
    "memory",
    "orthogonal",
    "paper_exponents",
    "roots",
    "scale_by_shampoo",
    "shampoo",
    "soap",
    "state_sharding",
    "to_canonical",
]
