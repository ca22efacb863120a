"""One step over the blocks that a device owns: accumulate, refresh, precondition, graft.

Nothing here communicates. Arrays are `[n, ...]` with n the rows of this device; the order of
operations is that of the Algorithm 2 of the paper, as its software runs it; more in
docs/shampoo/how-it-works.md.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.lax import PrecisionLike

from shampoo_jax.config import ShampooConfig
from shampoo_jax.differentiable import norms, power
from shampoo_jax.grafting import per_row
from shampoo_jax.plan import Pool
from shampoo_jax.roots import Refreshed
from shampoo_jax.state import PoolState

_LETTERS = "abcdefghijklm"


class Local(NamedTuple):
    """What this device must know of its rows of a pool.

    Attributes:
      sizes: int32 `[n, order]`, true sizes.
      present: bool `[n]`, False for padding rows and for leaves without a gradient.
      due_rows: int32 `[width]`, local rows to refresh at this step ...
      due: int32 scalar, ... of which the first `due` count.
    """

    sizes: jax.Array
    present: jax.Array
    due_rows: jax.Array
    due: jax.Array


def phase_table(pool: Pool, *, devices: int, phases: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the local rows of each phase: int32 `[devices, phases, width]` and their counts."""
    per_device = pool.rows(devices) // devices
    rows = np.arange(pool.num_blocks)
    device, phase = rows // per_device, pool.position % phases
    counts = np.zeros((devices, phases), np.int32)
    np.add.at(counts, (device, phase), 1)
    table = np.zeros((devices, phases, max(int(counts.max(initial=0)), 1)), np.int32)
    fill = np.zeros_like(counts)
    for row, d, p in zip(rows, device, phase):
        table[d, p, fill[d, p]] = row % per_device
        fill[d, p] += 1
    return table, counts


def gram(g: jax.Array, axis: int, *, precision: PrecisionLike = None) -> jax.Array:
    """Contract `[n, *dims]` with itself over all dims but one: `[n, d, d]`."""
    dims = _LETTERS[: g.ndim - 1]
    other = dims.replace(dims[axis], "z")
    return jnp.einsum(f"Z{dims},Z{other}->Z{dims[axis]}z", g, g, precision=precision)


def multiply(
    x: jax.Array,
    matrix: jax.Array,
    axis: int,
    *,
    transpose: bool = False,
    precision: PrecisionLike = None,
) -> jax.Array:
    """Multiply `[n, *dims]` by `[n, d, d]` along one dim (by its transpose if asked)."""
    dims = _LETTERS[: x.ndim - 1]
    letters = dims[axis] + "z" if transpose else "z" + dims[axis]
    out = dims.replace(dims[axis], "z")
    return jnp.einsum(f"Z{dims},Z{letters}->Z{out}", x, matrix, precision=precision)


def _along_all(x, matrices, pool: Pool, *, transpose=False, precision=None):
    for axis, matrix in zip(pool.preconditioned, matrices):
        x = multiply(x, matrix, axis, transpose=transpose, precision=precision)
    return x


def _average_weight(b2):
    """1 for a plain sum (b2 == 1), else 1 - b2; also for a traced b2."""
    if isinstance(b2, (int, float)):
        return 1.0 if b2 == 1 else 1 - b2
    return jnp.where(b2 == 1, 1.0, 1 - b2)


def _correction(beta, steps, dtype, *, on: bool):
    """1 - beta^steps in the blocks' precision; 1 where correction is off or beta is 1."""
    if not on:
        return jnp.ones((), dtype)
    beta = jnp.asarray(beta, dtype)
    return jnp.where(beta == 1, 1, 1 - jnp.where(beta == 1, 0, beta) ** steps)


def accumulate(
    state: PoolState,
    pool: Pool,
    g: jax.Array,
    active: jax.Array,
    count: jax.Array,
    config: ShampooConfig,
) -> tuple[jax.Array, ...]:
    """Return the factors after this step's gradient, on steps that gather statistics."""

    def add(factors):
        new = []
        for axis, factor in zip(pool.preconditioned, factors):
            outer = gram(g.astype(factor.dtype), axis, precision=config.root.precision)
            decay = jnp.where(active, jnp.asarray(config.b2, factor.dtype), 1)
            weight = jnp.asarray(_average_weight(config.b2), factor.dtype)
            new.append(per_row(decay, factor) * factor + weight * outer)
        return tuple(new)

    if config.refresh.statistics_frequency == 1:
        return add(state.factors)
    now = (count - 1) % config.refresh.statistics_frequency == 0
    return lax.cond(now, add, lambda factors: factors, state.factors)


class _Health(NamedTuple):
    """Counters of refreshing: of all rows `[n]`, or of one block `[]`."""

    last_refresh: jax.Array
    residual: jax.Array
    condition: jax.Array
    failures: jax.Array


def _refresh_block(factors, roots, sizes, health, exponents, correction, count, config):
    """Refresh the roots of one block; a bad one keeps the previous roots and is counted."""
    refreshed, zero = [], False
    for k, (factor, root) in enumerate(zip(factors, roots)):
        a = factor / correction.astype(factor.dtype)
        refreshed.append(
            config.solver(
                a,
                sizes[k],
                root.astype(factor.dtype),
                exponent=exponents[k],
                eps=jnp.asarray(config.eps, factor.dtype),
                relative_eps=config.root.relative_eps,
            )
        )
        zero |= jnp.trace(a) == 0
    refreshed = [Refreshed(r.value, *lax.stop_gradient(r[1:])) for r in refreshed]
    finite = [jnp.isfinite(r.value).all() for r in refreshed]
    residuals = [jnp.where(ok, r.residual, jnp.inf) for ok, r in zip(finite, refreshed)]
    residual = jnp.stack(residuals).max().astype(jnp.float32)
    condition = jnp.stack([r.condition for r in refreshed]).max().astype(jnp.float32)
    condition = jnp.where(jnp.isnan(condition), jnp.inf, condition)
    accepted = residual <= config.refresh.max_residual
    values = [r.value.astype(root.dtype) for r, root in zip(refreshed, roots)]
    # A factor that has seen no gradient yet has no root to fail at.
    new_health = _Health(
        last_refresh=jnp.where(accepted, count, health.last_refresh),
        residual=jnp.where(zero, health.residual, residual),
        condition=jnp.where(zero, health.condition, condition),
        failures=health.failures + (~accepted & ~zero),
    )
    return tuple(jnp.where(accepted, v, r) for v, r in zip(values, roots)), new_health


# Whether a flag is set in any of the models that `jax.vmap` steps at once. A `lax.cond` whose
# predicate differs per model runs both sides, at every step; by this one it skips the work that no
# model wants. Inside, each model selects for itself.
_anywhere = jax.custom_batching.custom_vmap(lambda flag: flag)


@_anywhere.def_vmap
def _anywhere_vmap(axis_size, in_batched, flag):
    del axis_size
    return _anywhere(flag.any(0) if in_batched[0] else flag), False


def _refresh_loop(local: Local, sizes, carry, factors, active, refresh):
    """Refresh the due rows one after the other (CPU); a step without any skips the work.

    The trip count is static, as differentiation in reverse mode asks.
    """

    def one(i, carry):
        row = local.due_rows[i]
        wanted = (i < local.due) & active[row]

        def compute(old):
            new = refresh(tuple(f[row] for f in factors), old[0], sizes[row], old[1])
            return jax.tree.map(lambda n, o: jnp.where(wanted, n, o), new, old)

        old = jax.tree.map(lambda x: x[row], carry)
        new = lax.cond(_anywhere(wanted), compute, lambda old: old, old)
        return jax.tree.map(lambda x, v: x.at[row].set(v), carry, new)

    def loop(carry):
        return lax.fori_loop(0, local.due_rows.shape[0], one, carry)

    return lax.cond(_anywhere(local.due > 0), loop, lambda carry: carry, carry)


def _refresh_batch(local: Local, sizes, carry, factors, active, refresh):
    """Refresh the due rows at once (GPU, TPU); a step without any skips the work."""

    def compute(carry):
        rows = local.due_rows
        roots, health = jax.tree.map(lambda x: x[rows], carry)
        new = jax.vmap(refresh)(tuple(f[rows] for f in factors), roots, sizes[rows], health)
        due = (jnp.arange(rows.shape[0]) < local.due) & active[rows]
        # Rows that are not due point past the end and are dropped.
        target = jnp.where(due, rows, active.shape[0])
        return jax.tree.map(lambda x, v: x.at[target].set(v, mode="drop"), carry, new)

    return lax.cond(_anywhere(local.due > 0), compute, lambda carry: carry, carry)


def refresh_roots(
    state: PoolState,
    pool: Pool,
    local: Local,
    factors: tuple[jax.Array, ...],
    active: jax.Array,
    count: jax.Array,
    config: ShampooConfig,
) -> tuple[tuple[jax.Array, ...], "_Health"]:
    """Refresh the roots of the blocks that are due; return all roots and their health."""
    gathered = (count - 1) // config.refresh.statistics_frequency + 1
    correction = _correction(config.b2, gathered, factors[0].dtype, on=config.root.bias_correction)
    exponents = [pool.exponents[k] for k in pool.preconditioned]
    sizes = local.sizes[:, np.array(pool.preconditioned)]

    def refresh(factors, roots, sizes, health):
        return _refresh_block(factors, roots, sizes, health, exponents, correction, count, config)

    def run(kind):
        return lambda carry: kind(local, sizes, carry, factors, active, refresh)

    carry = (state.roots, _health(state))
    return lax.platform_dependent(carry, cpu=run(_refresh_loop), default=run(_refresh_batch))


def _health(state: PoolState) -> _Health:
    return _Health(state.last_refresh, state.residual, state.condition, state.failures)


def filter_gradient(
    state: PoolState, g: jax.Array, active: jax.Array, count: jax.Array, config: ShampooConfig
) -> tuple[jax.Array, jax.Array | None]:
    """Return the filtered gradient F and its average M (F mixes the old M with b3)."""
    if state.filtered is None:
        return g, None
    b1 = jnp.asarray(config.b1, g.dtype)
    m = b1 * state.filtered + (1 - b1) * g
    m = jnp.where(per_row(active, m), m, state.filtered)
    if config.b3 is None:
        b3, f = b1, m  # not the old average again: XLA then updates it in place
    else:
        b3 = jnp.asarray(config.b3, g.dtype)
        f = b3 * state.filtered + (1 - b3) * g
    return f / (1 - b3 * b1 ** (count - 1)) if config.root.bias_correction else f, m


def _corrected_direction(state: PoolState, pool: Pool, g, f, roots, active, count, config):
    """EShampoo / SOAP: divide by the root of the second moment in the eigenbasis."""
    assert state.eigenvalues is not None
    rotated = _along_all(g, roots, pool, transpose=True, precision=config.root.precision)
    b2 = jnp.asarray(config.b2, g.dtype)
    weight = jnp.asarray(_average_weight(config.b2), g.dtype)
    v = b2 * state.eigenvalues + weight * jnp.square(rotated)
    v = jnp.where(per_row(active, v), v, state.eigenvalues)
    correction = _correction(config.b2, count, g.dtype, on=config.root.bias_correction)
    root = power(v / correction, config.power(len(pool.dims)))
    denominator = root + jnp.asarray(config.eps, g.dtype)
    rotated_f = _along_all(f, roots, pool, transpose=True, precision=config.root.precision)
    scaled = jnp.where(denominator > 0, rotated_f / jnp.where(denominator > 0, denominator, 1), 0)
    return _along_all(scaled, roots, pool, precision=config.root.precision), v


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
        due = (jnp.arange(rows.shape[0]) < local.due) & active[rows]
        return v.at[jnp.where(due, rows, v.shape[0])].set(moved, mode="drop")

    return lax.cond(_anywhere(local.due > 0), move, lambda v: v, v)


def _graft(p, p_graft, last_refresh, count, config):
    """Give P the norm of the grafting direction per block; before the first root, take that one."""
    # Norms read finished arrays: fused into the reduction, a division or root per element would run
    # unvectorized on CPU, four times slower than the whole rest.
    p, p_graft = lax.optimization_barrier((p, p_graft))
    scale = norms(p_graft) / (norms(p) + jnp.asarray(1e-16, p.dtype))
    ready = (
        last_refresh > 0
        if config.refresh.stagger
        else jnp.broadcast_to(count >= config.refresh.start, last_refresh.shape)
    )
    return jnp.where(per_row(ready, p), p * per_row(scale, p), p_graft)


def _momentum(state: PoolState, p, w, active, config):
    """Decay enters the buffer of classic momentum, so it is added here, by the block's owner."""
    assert state.momentum is not None
    if w is not None:
        p = p + jnp.asarray(config.weight_decay, p.dtype) * w
    mu, damping = (jnp.asarray(x, p.dtype) for x in (config.momentum, config.dampening))
    buffer = mu * state.momentum + (1 - damping) * p
    buffer = jnp.where(per_row(active, buffer), buffer, state.momentum)
    return ((1 - damping) * p + mu * buffer if config.nesterov else buffer), buffer


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
    factors, roots, health = (), state.roots, _health(state)
    if pool.preconditioned:
        factors = accumulate(state, pool, g, active, count, config)
        roots, health = refresh_roots(state, pool, local, factors, active, count, config)
    f, filtered = filter_gradient(state, g, active, count, config)
    p_graft, graft = config.graft.update(
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
    else:
        p = _along_all(f, roots, pool, precision=config.root.precision)
    if config.grafts:
        p = p_graft if pool.grafted else _graft(p, p_graft, health.last_refresh, count, config)
    momentum = state.momentum
    if momentum is not None:
        p, momentum = _momentum(state, p, w, active, config)
    p = jnp.where(per_row(active, p), p, 0)
    new = PoolState(
        factors=factors,
        roots=roots,
        eigenvalues=eigenvalues,
        filtered=filtered,
        momentum=momentum,
        graft=graft,
        **health._asdict(),
        skipped=state.skipped + (local.present & ~finite),
        record=state.record,
    )
    return new, p
