"""Health of the blocks, read from the state: cheap enough to log at every step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from shampoo_jax.state import PoolState, ShampooState, find_states


class Diagnostics(NamedTuple):
    """One value per block, all pools concatenated; padding rows are included and healthy."""

    condition: jax.Array  # float32 [blocks]: of the worst factor at the last attempted refresh
    residual: jax.Array  # float32 [blocks]: of the roots at that refresh
    staleness: jax.Array  # int32 [blocks]: steps since the last good refresh, -1 = never refreshed
    failures: jax.Array  # int32 [blocks]: refreshes refused so far
    skipped: jax.Array  # int32 [blocks]: steps skipped for a gradient that was not finite

    def summary(self) -> dict[str, jax.Array]:
        """Return scalars for a log: the worst of each, and the totals of the counters."""
        return {
            "condition_max": self.condition.max(initial=1.0),
            "residual_max": self.residual.max(initial=0.0),
            "staleness_max": self.staleness.max(initial=-1),
            "failures": self.failures.sum(),
            "skipped": self.skipped.sum(),
        }


def _of_pool(pool: PoolState, count) -> Diagnostics:
    stale = jnp.where(pool.last_refresh > 0, count - pool.last_refresh, -1)
    return Diagnostics(pool.condition, pool.residual, stale, pool.failures, pool.skipped)


def diagnostics(state: optax.OptState) -> Diagnostics:
    """Collect the health of every block.

    Args:
      state: any optax state that holds `ShampooState`s.

    Raises:
      ValueError: there is none in it.
    """
    states = find_states(state, ShampooState)
    if not states:
        raise ValueError(f"state: expected one that holds a ShampooState, found {type(state)}")
    pools = [
        _of_pool(pool, s.count) for s in states if isinstance(s.pools, tuple) for pool in s.pools
    ]
    if not pools:
        floats, ints = jnp.zeros((0,)), jnp.zeros((0,), jnp.int32)
        return Diagnostics(floats, floats, ints, ints, ints)
    return jax.tree.map(lambda *x: jnp.concatenate(x), *pools)
