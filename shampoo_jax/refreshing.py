"""Roots are renewed: which rows are due, how one block is solved, and how that went.

On CPU the due rows are taken one after the other, elsewhere as one batch; more in
docs/shampoo/how-it-works.md.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from shampoo_jax import spectra as spectra_lib
from shampoo_jax import statistics
from shampoo_jax.config import ShampooConfig
from shampoo_jax.packing import unpack
from shampoo_jax.plan import Pool
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

    def targets(self, active: jax.Array) -> jax.Array:
        """Where results of `due_rows` belong: int32 `[width]`, past the end if not due."""
        due = (jnp.arange(self.due_rows.shape[0]) < self.due) & active[self.due_rows]
        return jnp.where(due, self.due_rows, active.shape[0])


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


class Health(NamedTuple):
    """Counters of refreshing `[n]`, as in the state."""

    last_refresh: jax.Array
    residual: jax.Array
    condition: jax.Array
    failures: jax.Array


class _Report(NamedTuple):
    """How the refreshes of a step went: of one block, float32 `[]`, or of all rows `[n]`.

    Attributes:
      tried, accepted: whether there was one, and whether its roots were taken.
      residual, condition: the worst of the block's factors.
      unseen: whether a factor has seen no gradient yet: it has no root to fail at.
    """

    tried: jax.Array
    accepted: jax.Array
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


def _alike(roots, exponents) -> list[list[int]]:
    """Group the sides of a block that one program serves.

    By their roots: packed, a factor of side 3 has the shape of one of side 4.
    """
    groups: dict[tuple, list[int]] = {}
    for k, root in enumerate(roots):
        groups.setdefault((root.shape, exponents[k]), []).append(k)
    return list(groups.values())


def _refresh_block(factors, kept, sizes, exponents, correction, config):
    """Refresh the roots of one block, or keep the previous ones; return a report beside."""
    roots, spectra = kept
    groups, attempts = _alike(roots, exponents), []
    for sides in groups:
        solve = functools.partial(
            _attempt, exponent=exponents[sides[0]], correction=correction, config=config
        )
        own = [(factors[k], roots[k], sizes[k]) for k in sides]
        alone = len(sides) == 1
        attempts.append(solve(*own[0]) if alone else jax.vmap(solve)(*map(jnp.stack, zip(*own))))

    def of_block(name):
        return jnp.stack([jnp.atleast_1d(getattr(t, name)).max() for t in attempts]).max()

    residual = of_block("residual")
    accepted = residual <= config.refresh.max_residual
    new_roots, new_spectra = list(roots), list(spectra)
    for sides, attempt in zip(groups, attempts):
        for i, k in enumerate(sides):
            own = attempt if len(sides) == 1 else jax.tree.map(lambda x, i=i: x[i], attempt)
            new_roots[k] = jnp.where(accepted, own.root, roots[k])
            if spectra:
                lam = own.spectrum.astype(spectra[k].dtype)
                new_spectra[k] = jnp.where(accepted, lam, spectra[k])
    condition, unseen = of_block("condition"), of_block("unseen")
    report = _Report(jnp.ones(()), accepted, residual, condition, unseen)
    stacked = jnp.stack([x.astype(jnp.float32) for x in report])
    return (tuple(new_roots), tuple(new_spectra)), stacked


def _count(health: Health, report: _Report, count: jax.Array) -> Health:
    """Bring the counters up to date."""
    tried, accepted = report.tried > 0, report.accepted > 0
    seen = tried & (report.unseen == 0)
    return Health(
        last_refresh=jnp.where(accepted, count, health.last_refresh),
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
anywhere = jax.custom_batching.custom_vmap(lambda flag: flag)


@anywhere.def_vmap
def _anywhere_vmap(axis_size, in_batched, flag):
    del axis_size
    return anywhere(flag.any(0) if in_batched[0] else flag), False


def _refresh_loop(local: Local, sizes, carry, factors, active, refresh):
    """Refresh the due rows one after the other (CPU).

    The trip count is static, as differentiation in reverse mode asks.
    """

    def one(i, carry):
        row = local.due_rows[i]
        wanted = (i < local.due) & active[row]

        def compute(old):
            new = refresh(tuple(f[row] for f in factors), old[0], sizes[row])
            return jax.tree.map(lambda n, o: jnp.where(wanted, n, o), new, old)

        old = jax.tree.map(lambda x: x[row], carry)
        new = lax.cond(anywhere(wanted), compute, lambda old: old, old)
        put = lambda x, v: lax.dynamic_update_index_in_dim(x, v, row, 0)  # noqa: E731
        return jax.tree.map(put, carry, new)

    return lax.fori_loop(0, local.due_rows.shape[0], one, carry)


def _refresh_batch(local: Local, sizes, carry, factors, active, refresh):
    """Refresh the due rows at once (GPU, TPU)."""
    rows, targets = local.due_rows, local.targets(active)
    old = jax.tree.map(lambda x: x[rows], carry[0])
    new = jax.vmap(refresh)(tuple(f[rows] for f in factors), old, sizes[rows])
    return jax.tree.map(lambda x, v: x.at[targets].set(v, mode="drop"), carry, new)


def refresh_roots(
    state: PoolState,
    pool: Pool,
    local: Local,
    factors: tuple[jax.Array, ...],
    active: jax.Array,
    count: jax.Array,
    config: ShampooConfig,
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...], "Health"]:
    """Refresh the blocks that are due; return all roots, their spectra and their health."""
    gathered = statistics.gathered(count, config)
    correction = statistics.correction(config, gathered, factors[0].dtype)
    exponents = [pool.exponents[k] for k in pool.preconditioned]
    sizes = local.sizes[:, np.array(pool.preconditioned)]

    def refresh(factors, kept, sizes):
        return _refresh_block(factors, kept, sizes, exponents, correction, config)

    def run(kind):
        return lambda carry: kind(local, sizes, carry, factors, active, refresh)

    def work(carry):
        return lax.platform_dependent(carry, cpu=run(_refresh_loop), default=run(_refresh_batch))

    no_report = jnp.zeros((*active.shape, len(_Report._fields)), jnp.float32)
    carry = ((state.roots, state.spectra), no_report)
    # A step without any due block skips the work.
    carry = lax.cond(anywhere(local.due > 0), work, lambda carry: carry, carry)
    (roots, spectra), stacked = carry
    health = _count(health_of(state), _Report(*jnp.unstack(stacked, axis=1)), count)
    if config.root.track_eigenvalues:
        spectra = _track(state.spectra, roots, factors, sizes, active, correction, config)
    return roots, spectra, health


def health_of(state: PoolState) -> Health:
    """Return the counters that a pool's state holds."""
    return Health(state.last_refresh, state.residual, state.condition, state.failures)
