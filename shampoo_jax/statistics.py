"""The factors L_k: averages of outer products of the gradient, and the matrix that has a root.

With `Root(factors="gram")` the outer product O_k is that of the paper, G unfolded along k times its
transpose. The KL rule (arXiv 2509.03378) first multiplies G along all other dims by their inverse
roots, so that L_1 x L_2 x ... is the Kronecker product nearest to the second moment of G in
Kullback-Leibler divergence, if every exponent is 1/2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from shampoo_jax.config import ShampooConfig
from shampoo_jax.grafting import per_row
from shampoo_jax.packing import pack
from shampoo_jax.plan import Pool
from shampoo_jax.products import gram, in_chunks, multiply, scale
from shampoo_jax.spectra import inverse_powers
from shampoo_jax.state import PoolState


def average_weight(config: ShampooConfig) -> ArrayLike:
    """Weight of a new outer product: 1 - b2; 1 for a plain sum (b2 == 1) or without weighting."""
    b2 = config.b2
    if not config.root.weighted:
        return 1.0
    if isinstance(b2, int | float):
        return 1.0 if b2 == 1 else 1 - b2
    return jnp.where(b2 == 1, 1.0, 1 - b2)


def correction(config: ShampooConfig, steps: jax.Array, dtype: DTypeLike) -> jax.Array:
    """1 - b2^steps in the blocks' precision; 1 where correction is off or b2 is 1."""
    if not (config.root.bias_correction and config.root.weighted):
        return jnp.ones((), dtype)
    beta = jnp.asarray(config.b2, dtype)
    return jnp.where(beta == 1, 1, 1 - jnp.where(beta == 1, 0, beta) ** steps)


def corrected(factor: jax.Array, correction: jax.Array, config: ShampooConfig) -> jax.Array:
    """Return A, what the root is taken of, for one factor `[d, d]` or for many `[n, d, d]`.

    A = L / correction, times max(trace(A), eps)^(-trace_scaling) if asked; a relative eps sets no
    floor to a trace.
    """
    a = factor / correction.astype(factor.dtype)
    if config.root.trace_scaling is None:
        return a
    trace = jnp.trace(a, axis1=-2, axis2=-1)
    floor = 0 if config.root.relative_eps else jnp.asarray(config.eps, a.dtype)
    size = jnp.maximum(trace, floor)
    power = jnp.where(size > 0, size, 1) ** -config.root.trace_scaling
    return a * power[..., None, None]


class _Whitening(NamedTuple):
    """What the KL rule reads of a pool's rows; empty where the outer products are plain.

    Attributes:
      roots, spectra: as in the state.
      seen: bool `[n]`, False for a block whose roots are still the identity.
    """

    roots: tuple[jax.Array, ...] = ()
    spectra: tuple[jax.Array, ...] = ()
    seen: jax.Array | None = None


def _whitening(state: PoolState, config: ShampooConfig) -> _Whitening:
    if config.root.factors == "gram":
        return _Whitening()
    if config.root.track_eigenvalues:
        seen = jnp.trace(state.factors[0], axis1=1, axis2=2) > 0
    else:
        seen = state.last_refresh > 0
    return _Whitening(state.roots, state.spectra, seen)


def _whitened(g: jax.Array, by: _Whitening, pool: Pool, own: int, config: ShampooConfig):
    """G multiplied along all preconditioned dims but one by their inverse roots.

    From an eigendecomposition Q diag(lam) Q^T the last product with Q is left out: these dims are
    contracted, and Q is orthogonal.
    """
    precision = config.root.precision
    for i, axis in enumerate(pool.preconditioned):
        if i == own:
            continue
        root = by.roots[i].astype(g.dtype)
        if config.keeps_spectra:
            g = multiply(g, root, axis, transpose=True, precision=precision)
            powers = inverse_powers(by.spectra[i].astype(g.dtype), pool.exponents[axis])
            g = scale(g, powers, axis)
        else:
            g = multiply(g, root, axis, precision=precision)
    return g


def _mean_scale(g: jax.Array, seen: jax.Array, sizes: jax.Array, pool: Pool, own: int):
    """Turn a sum over the other dims into a mean `[n]`, also of blocks without a root yet.

    Theirs is the identity times c, with c^k the mean square of G for k factors: the product of all
    factors then starts at the size of the second moment, and the method does not depend on the
    scale of gradients. With the plain identity every factor would start at it, their product at
    its square.
    """
    axis, count = pool.preconditioned[own], len(pool.preconditioned)
    elements = jnp.prod(sizes, axis=1).astype(g.dtype)
    mean = 1 / (elements / sizes[:, axis])
    if count == 1:
        return mean
    square = jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))) / elements
    some = square > 0
    start = jnp.where(some, square, 1) ** ((1 - count) / count)
    return mean * jnp.where(seen, 1, start)


def _outer(g, by: _Whitening, pool: Pool, sizes, own: int, config: ShampooConfig) -> jax.Array:
    """O_k `[n, d, d]` of one factor, in the dtype of G."""
    axis, rule = pool.preconditioned[own], config.root.factors
    if rule == "gram":
        return gram(g, axis, precision=config.root.precision)
    outer = gram(_whitened(g, by, pool, own, config), axis, precision=config.root.precision)
    if rule == "kl_sum":
        return outer
    assert by.seen is not None
    return outer * per_row(_mean_scale(g, by.seen, sizes, pool, own), outer)


def accumulate(
    state: PoolState,
    pool: Pool,
    g: jax.Array,
    sizes: jax.Array,
    active: jax.Array,
    count: jax.Array,
    config: ShampooConfig,
) -> tuple[jax.Array, ...]:
    """Return the factors after this step's gradient, on steps that gather statistics.

    Args:
      state: rows of a pool.
      pool: its description.
      g: `[n, *dims]` gradients, zero in the padding and where not active.
      sizes: int32 `[n, order]`, true sizes.
      active: bool `[n]`, False for blocks that are skipped.
      count: int32, this step, from 1.
      config: hyperparameters.
    """

    def add_rows(factors, by, g, sizes, active):
        new = []
        for own, factor in enumerate(factors):
            outer = _outer(g.astype(factor.dtype), by, pool, sizes, own, config)
            decay = jnp.where(active, jnp.asarray(config.b2, factor.dtype), 1)
            weight = jnp.asarray(average_weight(config), factor.dtype)
            outer = pack(outer) if config.packs_factors else outer
            new.append(per_row(decay, factor) * factor + weight * outer)
        return tuple(new)

    def add(factors):
        others = (_whitening(state, config), g, sizes, active)
        return in_chunks(add_rows, factors, *others, block=pool.dims)

    if config.refresh.statistics_frequency == 1:
        return add(state.factors)
    now = (count - 1) % config.refresh.statistics_frequency == 0
    return lax.cond(now, add, lambda factors: factors, state.factors)


def gathered(count: jax.Array, config: ShampooConfig) -> jax.Array:
    """Number of steps that have updated the factors."""
    return (count - 1) // config.refresh.statistics_frequency + 1
