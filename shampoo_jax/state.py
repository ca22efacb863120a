"""The optimizer state: everything that belongs to a block, stacked in its pool."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from shampoo_jax import record
from shampoo_jax.config import ShampooConfig
from shampoo_jax.packing import packed_shape
from shampoo_jax.plan import Plan, Pool

T = TypeVar("T")


class PoolState(NamedTuple):
    """State of one pool of blocks; `rows` is sharded over devices, `dims` never is.

    Fields that a configuration does not use are None. One factor per preconditioned dim, in order.
    """

    # [rows, d_k / 2, d_k + 1] factor_dtype: averaged Gram matrices L_k, packed (packing.py); or
    # [rows, d_k, d_k], where eigenvalues are tracked
    factors: tuple[jax.Array, ...]
    roots: tuple[jax.Array, ...]  # [rows, d_k, d_k]: L_k^-e_k, or the eigenvectors of L_k
    spectra: tuple[jax.Array, ...]  # [rows, d_k]: eigenvalues of the factors, () where not kept
    eigenvalues: jax.Array | None  # [rows, *dims]: second moment in the eigenbasis
    filtered: jax.Array | None  # [rows, *dims]: average of gradients, decay b1
    momentum: jax.Array | None  # [rows, *dims]: heavy-ball buffer
    graft: optax.OptState  # of the grafting method, over [rows, *dims]
    last_refresh: jax.Array  # int32 [rows]: step of the last good refresh, 0 = never
    residual: jax.Array  # float32 [rows]: residual of the last attempted refresh
    condition: jax.Array  # float32 [rows]: worst condition number of a factor at that time
    failures: jax.Array  # int32 [rows]: refreshes that were refused, the previous root kept
    skipped: jax.Array  # int32 [rows]: steps whose gradient was not finite
    record: str  # static: which blocks the rows are (record.py)


ARRAYS = PoolState._fields[:-1]


# As the NamedTuple that it is, `record` would count among its children.
jax.tree_util.register_dataclass(PoolState, data_fields=ARRAYS, meta_fields=("record",))


class ShampooState(NamedTuple):
    """State of `scale_by_shampoo`."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  # int32 [], steps taken
    # One PoolState per pool; a float32 [0] where no parameter has an element.
    pools: tuple[PoolState, ...] | jax.Array


def find_states(state: optax.OptState, kind: type[T]) -> list[T]:
    """Return the states of one kind that stand anywhere in an optimizer's state."""
    nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kind))
    return [node for node in nodes if isinstance(node, kind)]


def init_pool(
    pool: Pool, config: ShampooConfig, *, rows: int, dtype: DTypeLike, text: str
) -> PoolState:
    """Return the zero state of `rows` blocks; roots start as the identity.

    Every field is an array of its own: a state whose fields share one cannot be donated.
    """
    sides, mu = [pool.dims[k] for k in pool.preconditioned], config.root.mu_dtype or dtype

    def blocks(dtype=dtype):
        return jnp.zeros((rows, *pool.dims), dtype)

    def counter():
        return jnp.zeros((rows,), jnp.int32)

    def identity(side):
        return jnp.broadcast_to(jnp.eye(side, dtype=dtype)[None], (rows, side, side))

    def factor(side):
        shape = packed_shape(side) if config.packs_factors else (side, side)
        return jnp.zeros((rows, *shape), config.root.factor_dtype or dtype)

    return PoolState(
        factors=tuple(factor(d) for d in sides),
        roots=tuple(identity(d) for d in sides),
        spectra=tuple(jnp.ones((rows, d), dtype) for d in sides) if config.keeps_spectra else (),
        eigenvalues=blocks() if config.eigenvalue_corrected else None,
        filtered=blocks(mu) if config.uses_filter else None,
        momentum=blocks(mu) if config.uses_momentum else None,
        graft=config.graft(pool.grafted).init(blocks()),
        last_refresh=counter(),
        residual=jnp.zeros((rows,), jnp.float32),
        condition=jnp.ones((rows,), jnp.float32),
        failures=counter(),
        skipped=counter(),
        record=text,
    )


def block_dtype(dtypes: Iterable[DTypeLike]) -> jnp.dtype:
    """Return the dtype of all statistics: float32, or float64 where a parameter is."""
    return jnp.result_type(jnp.float32, *dtypes)


def init_pools(
    plan: Plan, config: ShampooConfig, *, devices: int, dtype: DTypeLike, paths: Sequence[str]
) -> tuple[PoolState, ...] | jax.Array:
    """Return the state of all pools for a mesh of `devices`."""
    if not plan.pools:
        return jnp.zeros((0,), jnp.float32)
    texts = records(plan, config, paths)
    return tuple(
        init_pool(pool, config, rows=pool.rows(devices), dtype=dtype, text=text)
        for pool, text in zip(plan.pools, texts)
    )


def records(plan: Plan, config: ShampooConfig, paths: Sequence[str]) -> list[str]:
    """Return the record of every pool."""
    return [record.write(pool, plan, paths, config.blocks) for pool in plan.pools]
