"""One step over the blocks that a device owns: accumulate, refresh, precondition, graft.

Nothing here communicates. Arrays are `[n, ...]` with n the rows of this device; the order of
operations is that of the Algorithm 2 of the paper, as its software runs it; more in
docs/shampoo/how-it-works.md.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from shampoo_jax import spectra as spectra_lib
from shampoo_jax import statistics
from shampoo_jax.config import ShampooConfig
from shampoo_jax.differentiable import norms, power
from shampoo_jax.grafting import per_row
from shampoo_jax.plan import Pool
from shampoo_jax.products import along_all, multiply
from shampoo_jax.refreshing import Local, anywhere, health_of, refresh_roots
from shampoo_jax.state import PoolState


def filter_gradient(
    state: PoolState, g: jax.Array, active: jax.Array, count: jax.Array, config: ShampooConfig
) -> tuple[jax.Array, jax.Array | None]:
    """Return the filtered gradient F and its average M (F mixes the old M with b3)."""
    if state.filtered is None:
        return g, None
    b1 = jnp.asarray(config.b1, g.dtype)
    old = state.filtered.astype(g.dtype)
    m = b1 * old + (1 - b1) * g
    m = jnp.where(per_row(active, m), m, old)
    if config.b3 is None:
        b3, f = b1, m  # not the old average again: XLA then updates it in place
    else:
        b3 = jnp.asarray(config.b3, g.dtype)
        f = b3 * old + (1 - b3) * g
    f = f / (1 - b3 * b1 ** (count - 1)) if config.root.bias_correction else f
    return f, m.astype(state.filtered.dtype)


def _corrected_direction(state: PoolState, pool: Pool, g, f, roots, active, count, config):
    """EShampoo / SOAP: divide by the root of the second moment in the eigenbasis."""
    assert state.eigenvalues is not None
    axes, precision = pool.preconditioned, config.root.precision
    rotated = along_all(g, roots, axes, transpose=True, precision=precision)
    b2 = jnp.asarray(config.b2, g.dtype)
    weight = jnp.asarray(statistics.average_weight(config), g.dtype)
    v = b2 * state.eigenvalues + weight * jnp.square(rotated)
    v = jnp.where(per_row(active, v), v, state.eigenvalues)
    correction = statistics.correction(config, count, g.dtype)
    root = power(v / correction, config.power(len(pool.dims)))
    denominator = root + jnp.asarray(config.eps, g.dtype)
    rotated_f = along_all(f, roots, axes, transpose=True, precision=precision)
    scaled = jnp.where(denominator > 0, rotated_f / jnp.where(denominator > 0, denominator, 1), 0)
    return along_all(scaled, roots, axes, precision=precision), v


def _move_second_moment(v, pool: Pool, local: Local, old, new, active):
    """Carry the second moment of refreshed rows over to their new bases.

    An average of squares along the old axes says nothing of their products. Taken to be
    uncorrelated there, coordinate k of the new basis has the sum of (old_j . new_k)^2 v_j. Where
    columns only change places, as QR's do, that is exact.
    """

    def move(v):
        rows = local.due_rows
        moved = v[rows]
        for axis, a, b in zip(pool.preconditioned, old, new):
            overlap = jnp.einsum("nij,nik->njk", a[rows], b[rows])
            moved = multiply(moved, jnp.square(overlap), axis, transpose=True)
        return v.at[local.targets(active)].set(moved, mode="drop")

    return lax.cond(anywhere(local.due > 0), move, lambda v: v, v)


def _graft(p, p_graft, last_refresh, count, config):
    """Give P the norm of the grafting direction per block; before the first root, take that one."""
    # Norms read finished arrays: fused into the reduction, a division or root per element would run
    # unvectorized on CPU, four times slower than the whole rest.
    p, p_graft = lax.optimization_barrier((p, p_graft))
    scale = norms(p_graft) / (norms(p) + jnp.asarray(1e-16, p.dtype))
    ready = (
        last_refresh > 0
        if config.refresh.stagger
        else jnp.broadcast_to(count >= config.start, last_refresh.shape)
    )
    return jnp.where(per_row(ready, p), p * per_row(scale, p), p_graft)


def _momentum(state: PoolState, p, w, active, config):
    """Decay enters the buffer of classic momentum, so it is added here, by the block's owner."""
    assert state.momentum is not None
    if w is not None:
        p = p + jnp.asarray(config.weight_decay, p.dtype) * w
    mu, damping = (jnp.asarray(x, p.dtype) for x in (config.momentum, config.dampening))
    old = state.momentum.astype(p.dtype)
    buffer = mu * old + (1 - damping) * p
    buffer = jnp.where(per_row(active, buffer), buffer, old)
    direction = (1 - damping) * p + mu * buffer if config.nesterov else buffer
    return direction, buffer.astype(state.momentum.dtype)


def step_pool(
    state: PoolState,
    pool: Pool,
    local: Local,
    g: jax.Array,
    w: jax.Array | None,
    count: jax.Array,
    config: ShampooConfig,
) -> tuple[PoolState, jax.Array]:
    """Take one step over the rows of one pool.

    Args:
      state: the local rows of the pool's state.
      pool: the static description.
      local: tables of this device.
      g: `[n, *dims]` gradients, zero in the padding.
      w: `[n, *dims]` parameters times the decay mask, or None.
      count: int32, this step, from 1.
      config: hyperparameters, possibly traced.

    Returns:
      The new state and the direction P `[n, *dims]`, before the learning rate.
    """
    finite = jnp.isfinite(jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))))
    active = local.present & finite
    g = jnp.where(per_row(active, g), g, 0)
    factors, roots, spectra, health = (), state.roots, state.spectra, health_of(state)
    if pool.preconditioned:
        factors = statistics.accumulate(state, pool, g, local.sizes, active, count, config)
        refreshed = refresh_roots(state, pool, local, factors, active, count, config)
        roots, spectra, health = refreshed
    f, filtered = filter_gradient(state, g, active, count, config)
    p_graft: Any
    p_graft, graft = config.graft(pool.grafted).update(
        f, state.graft, None, gradient=g, count=count, active=active
    )
    eigenvalues = state.eigenvalues
    if config.eigenvalue_corrected:
        # A basis that has seen the gradient of this step turns F to where the second moment, which
        # was gathered in the basis before, is still zero.
        bases = state.roots if config.refreshes_last else roots
        p, eigenvalues = _corrected_direction(state, pool, g, f, bases, active, count, config)
        if config.refreshes_last and pool.preconditioned:
            moving = (local, state.roots, roots, active)
            eigenvalues = _move_second_moment(eigenvalues, pool, *moving)
    elif config.keeps_spectra:
        p = spectra_lib.direction(f, roots, spectra, pool, precision=config.root.precision)
    else:
        p = along_all(f, roots, pool.preconditioned, precision=config.root.precision)
    if config.grafts(pool.grafted):
        p = p_graft if pool.grafted else _graft(p, p_graft, health.last_refresh, count, config)
    momentum = state.momentum
    if momentum is not None:
        p, momentum = _momentum(state, p, w, active, config)
    p = jnp.where(per_row(active, p), p, 0)
    new = PoolState(
        factors=factors,
        roots=roots,
        spectra=spectra,
        eigenvalues=eigenvalues,
        filtered=filtered,
        momentum=momentum,
        graft=graft,
        **health._asdict(),
        skipped=state.skipped + (local.present & ~finite),
        record=state.record,
    )
    return new, p
