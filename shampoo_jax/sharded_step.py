"""One update over the mesh: stack, take this device's rows, step them, share the directions."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

from shampoo_jax import distribution, grouped_gather, layout
from shampoo_jax.config import ShampooConfig
from shampoo_jax.options import Sharding
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


def _step(blocks, decays, state, plan, present, config, devices):
    """Step this device's rows of every pool."""
    count = state.count + 1
    tables = _local(plan, present, config, devices, count)
    pools, directions = [], []
    for pool, own, local, g, w in zip(plan.pools, state.pools, tables, blocks, decays):
        new, direction = step_pool(own, pool, local, g, w, count, config)
        pools.append(new)
        directions.append(direction)
    return directions, tuple(pools)


def _step_whole(grads, weights, state, plan, present, config, devices, gather_dtype):
    """The body: whole gradients in, whole directions and this device's pools out."""
    dtype = block_dtype([x.dtype for x in grads])
    stack = {"devices": devices.count, "dtype": dtype}
    blocks = _own_rows(layout.to_pools(grads, plan, **stack), devices)
    decays = [None] * len(blocks)
    if weights is not None:
        decays = _own_rows(layout.to_pools(weights, plan, **stack), devices)
    directions, pools = _step(blocks, decays, state, plan, present, config, devices)
    directions = _gather_directions(directions, devices, gather_dtype)
    whole = layout.from_pools(directions, plan, [dtype] * len(grads), state.count + 1)
    return whole, pools


def _step_shards(grads, weights, rounds, state, plan, present, config, devices, dtype):
    """The body for shards that are too large to be whole at once: shards in and out."""
    own = block_dtype([x.dtype for x in grads])
    how = {"all_rounds": rounds, "devices": devices}
    blocks = grouped_gather.gather_rows(grads, plan, dtype=own, **how)
    decays = [None] * len(blocks)
    if weights is not None:
        decays = grouped_gather.gather_rows(weights, plan, dtype=own, **how)
    rows, pools = _step(blocks, decays, state, plan, present, config, devices)
    directions = grouped_gather.scatter_directions(rows, len(grads), dtype=dtype, **how)
    return directions, pools


def sharded_step(
    grads: Sequence[jax.Array],
    weights: Sequence[jax.Array] | None,
    state: ShampooState,
    plan: Plan,
    present: Sequence[bool],
    config: ShampooConfig,
    devices: distribution.Devices,
    specs: Sequence[P] | None,
    sharding: Sharding,
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
      sharding: in which dtype, and how much at a time, is gathered.

    Returns:
      The directions, laid out as the gradients, and the new pools.
    """
    if not plan.pools:
        return list(grads), state.pools
    mesh, gather_dtype = devices.mesh, sharding.gather_dtype
    if mesh is None:
        return _step_whole(grads, weights, state, plan, present, config, devices, gather_dtype)
    specs = distribution.leaf_specs(grads, mesh, specs)
    grads = [distribution.reshard_explicit(g, s, mesh) for g, s in zip(grads, specs)]
    if weights is not None:
        weights = [distribution.reshard_explicit(w, s, mesh) for w, s in zip(weights, specs)]
    rounds = grouped_gather.rounds_of(grads, specs, plan, most=sharding.gather_bytes)
    replicated: Any = P()
    state_specs = ShampooState(replicated, distribution.pool_specs(state.pools, devices.axes))

    def body(grads, weights, state, traced):
        now = dataclasses.replace(config, **traced)
        own = (state, plan, present, now, devices, gather_dtype)
        if len(rounds) > 1 or len(rounds[0]) > 1:
            return _step_shards(grads, weights, rounds, *own)
        sharded = [*grads, *(weights or [])]
        whole = distribution.gather_leaves(sharded, specs * (len(sharded) // len(specs)), mesh)
        grads, weights = whole[: len(specs)], whole[len(specs) :] or None
        directions, pools = _step_whole(grads, weights, *own)
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
