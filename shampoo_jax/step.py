"""One step over the blocks that a device owns: accumulate, refresh, precondition, graft.

Nothing here communicates. Arrays are `[n, ...]` with n the rows of this device; the order of
operations is that of the Algorithm 2 of the paper, as its software runs it; more in
docs/shampoo/how-it-works.md.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from shampoo_jax import spectra as spectra_lib
from shampoo_jax import statistics
from shampoo_jax.config import ShampooConfig
from shampoo_jax.differentiable import norms, power
from shampoo_jax.grafting import per_row
from shampoo_jax.packing import unpack
from shampoo_jax.plan import Pool
from shampoo_jax.products import along_all, multiply
from shampoo_jax.state import PoolState


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


class _Health(NamedTuple):
    """Counters of refreshing `[n]`, as in the state."""

    last_refresh: jax.Array
    residual: jax.Array
    condition: jax.Array
    failures: jax.Array


class _Report(NamedTuple):
    """How the refreshes of a step went: of one block, float32 `[]`, or of all rows `[n]`.

    Attributes:
      tried: whether there was one.
      residual, condition: the worst of the block's factors.
      unseen: whether a factor has seen no gradient yet: it has no root to fail at.
    """

    tried: jax.Array
    residual: jax.Array
    condition: jax.Array
    unseen: jax.Array


class _Attempt(NamedTuple):
    """What a refresh found of one factor, or of `[k]` like ones.

    Attributes:
      root: `[d, d]`.
      spectrum: `[d]`; None where none is kept.
      residual: infinite where the root is not finite.
      condition: infinite where there is none.
      unseen: whether the factor has seen no gradient yet: it has no root to fail at.
    """

    root: jax.Array
    spectrum: jax.Array | None
    residual: jax.Array
    condition: jax.Array
    unseen: jax.Array


def _attempt(factor, root, size, *, exponent, correction, config) -> _Attempt:
    """Solve for the root of one factor."""
    whole = unpack(factor, root.shape[-1]) if config.packs_factors else factor
    a = statistics.corrected(whole, correction, config)
    found = config.solver(
        a,
        size,
        root.astype(a.dtype),
        exponent=exponent,
        eps=jnp.asarray(config.eps, a.dtype),
        relative_eps=config.root.relative_eps,
    )
    residual, condition = lax.stop_gradient((found.residual, found.condition))
    lam = None
    if config.keeps_spectra:
        lam = _spectrum(a, found.value, size, config)
        condition = spectra_lib.condition(lam, size)
    return _Attempt(
        root=found.value.astype(root.dtype),
        spectrum=lam,
        residual=jnp.where(jnp.isfinite(found.value).all(), residual, jnp.inf),
        condition=jnp.where(jnp.isnan(condition), jnp.inf, condition),
        unseen=jnp.trace(a) == 0,
    )


def _alike(factors, exponents) -> list[list[int]]:
    """Group the sides of a block that one program serves."""
    groups: dict[tuple, list[int]] = {}
    for k, factor in enumerate(factors):
        groups.setdefault((factor.shape, exponents[k]), []).append(k)
    return list(groups.values())


def _refresh_block(factors, kept, sizes, exponents, correction, config):
    """Refresh the roots of one block, or keep the previous ones; return a report beside."""
    roots, spectra = kept
    groups, attempts = _alike(factors, exponents), []
    for sides in groups:
        solve = functools.partial(
            _attempt, exponent=exponents[sides[0]], correction=correction, config=config
        )
        own = [(factors[k], roots[k], sizes[k]) for k in sides]
        alone = len(sides) == 1
        attempts.append(solve(*own[0]) if alone else jax.vmap(solve)(*map(jnp.stack, zip(*own))))

    def of_block(name):
        return jnp.stack([jnp.atleast_1d(getattr(t, name)).max() for t in attempts]).max()

    residual, accepted = of_block("residual"), of_block("residual") <= config.refresh.max_residual
    new_roots, new_spectra = list(roots), list(spectra)
    for sides, attempt in zip(groups, attempts):
        for i, k in enumerate(sides):
            own = attempt if len(sides) == 1 else jax.tree.map(lambda x, i=i: x[i], attempt)
            new_roots[k] = jnp.where(accepted, own.root, roots[k])
            if spectra:
                lam = own.spectrum.astype(spectra[k].dtype)
                new_spectra[k] = jnp.where(accepted, lam, spectra[k])
    report = _Report(jnp.ones(()), residual, of_block("condition"), of_block("unseen"))
    report = jnp.stack([x.astype(jnp.float32) for x in report])
    return (tuple(new_roots), tuple(new_spectra)), report


def _count(health: _Health, report: _Report, count, config) -> _Health:
    """Bring the counters up to date."""
    tried = report.tried > 0
    accepted = report.residual <= config.refresh.max_residual
    seen = tried & (report.unseen == 0)
    return _Health(
        last_refresh=jnp.where(tried & accepted, count, health.last_refresh),
        residual=jnp.where(seen, report.residual, health.residual),
        condition=jnp.where(seen, report.condition, health.condition),
        failures=health.failures + (seen & ~accepted),
    )


def _spectrum(a, basis, size, config):
    eps, relative = config.eps, config.root.relative_eps
    return spectra_lib.spectrum(a, basis, size, eps=eps, relative_eps=relative)


def _track(spectra, bases, factors, sizes, active, correction, config):
    """Renew all eigenvalues in the bases of the last refresh; a zero factor keeps its own."""
    new = []
    for k, (lam, basis, factor) in enumerate(zip(spectra, bases, factors)):
        a = statistics.corrected(factor, correction, config)
        found = _spectrum(a, basis, sizes[:, k], config).astype(lam.dtype)
        use = active & (jnp.trace(a, axis1=1, axis2=2) > 0)
        new.append(jnp.where(use[:, None], found, lam))
    return tuple(new)


# Whether a flag is set in any of the models that `jax.vmap` steps at once. A `lax.cond` whose
# predicate differs per model runs both sides, at every step; by this one it skips the work that no
# model wants. Inside, each model selects for itself.
_anywhere = jax.custom_batching.custom_vmap(lambda flag: flag)


@_anywhere.def_vmap
def _anywhere_vmap(axis_size, in_batched, flag):
    del axis_size
    return _anywhere(flag.any(0) if in_batched[0] else flag), False


def _refresh_loop(local: Local, sizes, kept, factors, active, refresh):
    """Refresh the due rows one after the other (CPU); a step without any skips the work.

    The trip count is static, as differentiation in reverse mode asks.
    """

    def one(i, carry):
        row = local.due_rows[i]
        wanted = (i < local.due) & active[row]

        def compute(old):
            new = refresh(tuple(f[row] for f in factors), old[0], sizes[row])
            return jax.tree.map(lambda n, o: jnp.where(wanted, n, o), new, old)

        old = jax.tree.map(lambda x: x[row], carry)
        new = lax.cond(_anywhere(wanted), compute, lambda old: old, old)
        put = lambda x, v: lax.dynamic_update_index_in_dim(x, v, row, 0)  # noqa: E731
        return jax.tree.map(put, carry, new)

    def loop(kept):
        return lax.fori_loop(0, local.due_rows.shape[0], one, (kept, _no_report(active)))

    return lax.cond(_anywhere(local.due > 0), loop, lambda kept: (kept, _no_report(active)), kept)


def _refresh_batch(local: Local, sizes, kept, factors, active, refresh):
    """Refresh the due rows at once (GPU, TPU); a step without any skips the work."""

    def compute(kept):
        rows = local.due_rows
        old = jax.tree.map(lambda x: x[rows], kept)
        new = jax.vmap(refresh)(tuple(f[rows] for f in factors), old, sizes[rows])
        due = (jnp.arange(rows.shape[0]) < local.due) & active[rows]
        # Rows that are not due point past the end and are dropped.
        target = jnp.where(due, rows, active.shape[0])
        put = lambda x, v: x.at[target].set(v, mode="drop")  # noqa: E731
        return jax.tree.map(put, (kept, _no_report(active)), new)

    return lax.cond(
        _anywhere(local.due > 0), compute, lambda kept: (kept, _no_report(active)), kept
    )


def _no_report(active: jax.Array) -> jax.Array:
    """Return the stacked report `[n, 4]` of a step without a refresh."""
    return jnp.zeros((*active.shape, len(_Report._fields)), jnp.float32)


def refresh_roots(
    state: PoolState,
    pool: Pool,
    local: Local,
    factors: tuple[jax.Array, ...],
    active: jax.Array,
    count: jax.Array,
    config: ShampooConfig,
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...], "_Health"]:
    """Refresh the blocks that are due; return all roots, their spectra and their health."""
    gathered = statistics.gathered(count, config)
    correction = statistics.correction(config, gathered, factors[0].dtype)
    exponents = [pool.exponents[k] for k in pool.preconditioned]
    sizes = local.sizes[:, np.array(pool.preconditioned)]

    def refresh(factors, kept, sizes):
        return _refresh_block(factors, kept, sizes, exponents, correction, config)

    def run(kind):
        return lambda kept: kind(local, sizes, kept, factors, active, refresh)

    kinds = {"cpu": run(_refresh_loop), "default": run(_refresh_batch)}
    (roots, spectra), stacked = lax.platform_dependent((state.roots, state.spectra), **kinds)
    health = _count(_health(state), _Report(*jnp.unstack(stacked, axis=1)), count, config)
    if config.root.track_eigenvalues:
        spectra = _track(state.spectra, roots, factors, sizes, active, correction, config)
    return roots, spectra, health


def _health(state: PoolState) -> _Health:
    return _Health(state.last_refresh, state.residual, state.condition, state.failures)


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
    factors, roots, spectra, health = (), state.roots, state.spectra, _health(state)
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
