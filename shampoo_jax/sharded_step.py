"""One update over the mesh: stack, take this device's rows, step them, share the directions."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from shampoo_jax import distribution, layout
from shampoo_jax.config import ShampooConfig
from shampoo_jax.plan import Plan
from shampoo_jax.refreshing import Local, phase_table
from shampoo_jax.state import ShampooState, block_dtype
from shampoo_jax.step import step_pool


def _local(plan: Plan, present, config: ShampooConfig, devices, count) -> list[Local]:
    """Build this device's tables, from constants sliced by its index."""
    index, refresh = devices.index(), config.refresh
    locals_ = []
    for pool in plan.pools:
        n = pool.rows(devices.count) // devices.count
        pad = pool.rows(devices.count) - pool.num_blocks
        here = np.pad(np.asarray(present)[pool.leaf], (0, pad))
        sizes = np.pad(pool.sizes, ((0, pad), (0, 0)))
        table, counts = phase_table(pool, devices=devices.count, phases=refresh.phases)
        if refresh.stagger:
            phase, now = count % refresh.phases, count >= config.start
        else:
            later = (count > config.start) & (count % refresh.precondition_frequency == 0)
            phase, now = 0, (count == config.start) | later
        locals_.append(
            Local(
                sizes=jnp.asarray(sizes).reshape(devices.count, n, len(pool.dims))[index],
                present=jnp.asarray(here).reshape(devices.count, n)[index],
                due_rows=jnp.asarray(table)[index, phase],
                due=jnp.where(now, jnp.asarray(counts)[index, phase], 0),
            )
        )
    return locals_


def _own_rows(pools: Sequence[jax.Array], devices: distribution.Devices) -> list[jax.Array]:
    if devices.count == 1:
        return list(pools)
    index = devices.index()
    sizes = [x.shape[0] // devices.count for x in pools]
    return [lax.dynamic_slice_in_dim(x, index * n, n) for x, n in zip(pools, sizes)]


def _gather_directions(directions, devices: distribution.Devices, gather_dtype):
    """Share all directions in one all-gather of a flat buffer."""
    if devices.count == 1:
        return directions
    dtype = directions[0].dtype
    flat = jnp.concatenate([d.reshape(-1) for d in directions])
    flat = devices.gather(flat.astype(gather_dtype or dtype)).reshape(devices.count, -1)
    whole, start = [], 0
    for d in directions:
        part = flat[:, start : start + d.size]
        whole.append(part.reshape(-1, *d.shape[1:]).astype(dtype))
        start += d.size
    return whole


def _step(grads, weights, state, plan, present, config, devices, gather_dtype):
    """The body: whole gradients in, whole directions and this device's pools out."""
    count = state.count + 1
    dtype = block_dtype([x.dtype for x in grads])
    stack = {"devices": devices.count, "dtype": dtype}
    blocks = _own_rows(layout.to_pools(grads, plan, **stack), devices)
    decays = [None] * len(blocks)
    if weights is not None:
        decays = _own_rows(layout.to_pools(weights, plan, **stack), devices)
    tables = _local(plan, present, config, devices, count)
    pools, directions = [], []
    for pool, own, local, g, w in zip(plan.pools, state.pools, tables, blocks, decays):
        new, direction = step_pool(own, pool, local, g, w, count, config)
        pools.append(new)
        directions.append(direction)
    directions = _gather_directions(directions, devices, gather_dtype)
    return layout.from_pools(directions, plan, [dtype] * len(grads), count), tuple(pools)


def sharded_step(
    grads: Sequence[jax.Array],
    weights: Sequence[jax.Array] | None,
    state: ShampooState,
    plan: Plan,
    present: Sequence[bool],
    config: ShampooConfig,
    devices: distribution.Devices,
    specs: Sequence[P] | None,
    gather_dtype: DTypeLike | None,
) -> tuple[list[jax.Array], Any]:
    """Step all blocks: on one device, or inside one shard_map over the mesh.

    Args:
      grads: gradient leaves, zeros where missing.
      weights: parameter leaves times the decay mask, or None where the body does not need them.
      state: `ShampooState`.
      plan: of these leaves.
      present: bool per leaf, whether it has a gradient.
      config: hyperparameters at this step.
      devices: who shares the blocks.
      specs: PartitionSpec per leaf, or None to take them from the types.
      gather_dtype: dtype of the gathered directions, or None.

    Returns:
      The directions, laid out as the gradients, and the new pools.
    """
    if not plan.pools:
        return list(grads), state.pools
    mesh = devices.mesh
    if mesh is None:
        return _step(grads, weights, state, plan, present, config, devices, gather_dtype)
    specs = distribution.leaf_specs(grads, mesh, specs)
    grads = [distribution.reshard_explicit(g, s, mesh) for g, s in zip(grads, specs)]
    if weights is not None:
        weights = [distribution.reshard_explicit(w, s, mesh) for w, s in zip(weights, specs)]
    replicated: Any = P()
    state_specs = ShampooState(replicated, distribution.pool_specs(state.pools, devices.axes))

    def body(grads, weights, state, traced):
        sharded = [*grads, *(weights or [])]
        whole = distribution.gather_leaves(sharded, specs * (len(sharded) // len(specs)), mesh)
        grads, weights = whole[: len(specs)], whole[len(specs) :] or None
        now = dataclasses.replace(config, **traced)
        directions, pools = _step(grads, weights, state, plan, present, now, devices, gather_dtype)
        return [distribution.own_shard(d, s, mesh) for d, s in zip(directions, specs)], pools

    traced = config.traced  # Explicit axes do not let a shard_map close over arrays
    run = jax.shard_map(
        body,
        mesh=mesh,
        in_specs=(specs, None if weights is None else specs, state_specs, P()),
        out_specs=(specs, state_specs.pools),
        check_vma=False,
    )
    return run(grads, weights, state, traced)
