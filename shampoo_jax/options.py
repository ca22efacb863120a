"""The options that never change while training: four records, each a thing of its own.

They decide shapes, programs and where arrays lie. The maths (decays, ridge, momentum, weight decay)
are arguments of the factories, since optax.inject_hyperparams may turn them into arrays.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jax.lax import PrecisionLike
from jax.sharding import AbstractMesh, Mesh
from jax.typing import ArrayLike, DTypeLike

from shampoo_jax.roots import Refreshed

Preconditioner = Literal["root_inverse", "eigendecomposed", "eigenvalue_corrected", "soap"]
Factors = Literal["gram", "kl", "kl_sum"]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How parameters are cut into blocks, and how blocks are stacked.

    The first four are part of the algorithm: the same on all devices, and a checkpoint holds them.

    Attributes:
      block_size: largest side of a block; None = never split.
      target_dimensionality: small adjacent dims are merged while more dims are left than this (and
        the product stays <= `block_size`); None = keep shapes.
      exponents: function from a merged shape to an inverse exponent per dim, 0 = that dim has no
        factor; or to None, which leaves the parameter to the grafting method. None =
        `shampoo_jax.default_exponents`: 1/2 for dims that keep a factor, and vectors to the
        grafting method; `shampoo_jax.paper_exponents` is the paper's 1 / (2 k) of k such dims. In
        the eigenvalue-corrected form a dim with 0 is not rotated, and the size of other exponents
        has no effect.
      factor_limit: factors and roots of a block, counted as whole matrices, take at most this many
        times its size: dims whose factor would exceed it have none (the long side of a LoRA
        matrix). None = no limit. Factors are packed: with the two moments of the defaults, 6 means
        6.5 times in all, and little more. Not read by a function `exponents`.
      max_pools: cap on the number of pools: smaller compiles faster and pads more.
      round_to: sides of blocks are padded to a multiple of it.

    Raises:
      ValueError: a number out of range.
    """

    block_size: int | None = 128
    target_dimensionality: int | None = 2
    exponents: Callable[[Shape], Sequence[float] | None] | None = None
    factor_limit: float | None = 6.0
    max_pools: int = 12
    round_to: int = 8

    def __post_init__(self) -> None:
        _set(self, "block_size", optional_integer("block_size", self.block_size))
        target = optional_integer("target_dimensionality", self.target_dimensionality)
        _set(self, "target_dimensionality", target)
        _set(self, "max_pools", integer("max_pools", self.max_pools))
        _set(self, "round_to", integer("round_to", self.round_to))
        if self.exponents is not None:
            check(callable(self.exponents), "exponents", self.exponents, "a function or None")
        if self.factor_limit is not None:
            check_number("factor_limit", self.factor_limit, 0, math.inf)


@dataclasses.dataclass(frozen=True)
class Refresh:
    """When factors and roots are renewed.

    Attributes:
      precondition_frequency: steps between two refreshes of a root. A run of fewer steps than this
        sees the grafting method and nothing else.
      start_preconditioning_step: first step that may refresh; None = `precondition_frequency`, or 1
        for SOAP, which begins with the basis of the first gradient. Before its first refresh a
        block takes the grafting direction.
      statistics_frequency: steps between two updates of the factors.
      stagger: refresh a part of the blocks at every step rather than all at once: the same work
        without spikes. False = the paper.
      max_residual: a refresh with a larger residual, or one that is not finite, is refused: the
        previous root stays and the failure is counted.

    Raises:
      ValueError: a number out of range, or a start before the first refresh without `stagger`.
    """

    precondition_frequency: int = 10
    start_preconditioning_step: int | None = None
    statistics_frequency: int = 1
    stagger: bool = True
    max_residual: float = 0.1

    def __post_init__(self) -> None:
        for name in ("precondition_frequency", "statistics_frequency"):
            _set(self, name, integer(name, getattr(self, name)))
        start = self.start_preconditioning_step
        _set(
            self,
            "start_preconditioning_step",
            optional_integer("start_preconditioning_step", start),
        )
        if not self.stagger and start is not None:
            expected = f"at least precondition_frequency={self.precondition_frequency}"
            ok = start >= self.precondition_frequency
            check(ok, "start_preconditioning_step", start, f"{expected} unless stagger")
        ok = isinstance(self.max_residual, int | float) and self.max_residual > 0
        check(ok, "max_residual", self.max_residual, "a positive number")

    @property
    def phases(self) -> int:
        """Number of groups that blocks are dealt into for refreshing."""
        return self.precondition_frequency if self.stagger else 1


@dataclasses.dataclass(frozen=True)
class Root:
    """What is made of the factors, and by which solver.

    Attributes:
      preconditioner: `root_inverse`: roots of the factors; `eigendecomposed`: the same roots, kept
        as eigenvectors and eigenvalues, for what that allows: an adaptive refresh (the `tolerance`
        of a solver of bases) and `track_eigenvalues`; `eigenvalue_corrected`: eigenvectors, and a
        second moment in that basis (EShampoo); `soap`: the same, but a step takes the basis of the
        step before, refreshed after its use, and the second moment moves with the basis (arXiv
        2409.11321).
      solver: function of `shampoo_jax.roots`; None = `eigh_root`, or `eigh_basis` for all but
        `root_inverse`.
      factors: outer products that the factors average. `gram`: G G^T, the paper; `kl`: G multiplied
        along all other dims by their last inverse roots, averaged over those dims (KL-Shampoo,
        arXiv 2509.03378, which has all exponents 1/2); `kl_sum`: the same, summed over those dims
        (the PyTorch original), so that factors of a long matrix disagree on their scale.
      track_eigenvalues: renew the eigenvalues of the factors at every step, in the basis of the
        last refresh: one more product per factor. Directions then have the right scale from the
        first step on, and "auto" grafts blocks without factors alone.
      weighted: the weight of a new outer product (and square, in the eigenvalue-corrected form) is
        1 - b2. False = 1, and no bias correction of either: a sum that decays.
      trace_scaling: power by which a factor A is divided by its trace before the root is taken, A
        max(trace A, eps)^-power; None = 0. It acts through an absolute `eps`, or on the direction
        without grafting.
      relative_eps: `eps` is a multiple of the factor's largest eigenvalue. Absolute otherwise, as
        in the paper.
      eigenvalue_exponent: power of the second moment in the eigenbasis, one number or one per
        block order.
      bias_correction: correct the filtered gradient and the factors for starting at zero.
      factor_dtype: dtype of factors and of the roots' computation; None = that of the statistics.
      mu_dtype: dtype in which the averaged gradient and the momentum are kept, as in optax.adamw;
        None = that of the statistics. They are averaged in full precision.
      precision: of the products, as in `jax.lax.dot`.

    Raises:
      ValueError: an unknown preconditioner or rule, a dtype that is not floating, or eigenvalues to
        track where none are kept.
    """

    preconditioner: Preconditioner = "root_inverse"
    solver: Callable[..., Refreshed] | None = None
    factors: Factors = "gram"
    track_eigenvalues: bool = False
    weighted: bool = True
    trace_scaling: float | None = None
    relative_eps: bool = True
    eigenvalue_exponent: float | Mapping[int, float] = 0.5
    bias_correction: bool = True
    factor_dtype: DTypeLike | None = None
    mu_dtype: DTypeLike | None = None
    precision: PrecisionLike = None

    def __post_init__(self) -> None:
        kinds = get_args(Preconditioner)
        kind = self.preconditioner
        check(kind in kinds, "preconditioner", kind, f"one of {kinds}")
        check(
            self.factors in get_args(Factors),
            "factors",
            self.factors,
            f"one of {get_args(Factors)}",
        )
        kept = self.keeps_spectra or not self.track_eigenvalues
        check(kept, "track_eigenvalues", True, "False unless eigendecomposed, or factors are kl")
        if self.trace_scaling is not None:
            number = isinstance(self.trace_scaling, int | float)
            check(number, "trace_scaling", self.trace_scaling, "a number or None")
            check_number("trace_scaling", self.trace_scaling, 0, math.inf, open_high=True)
        if self.solver is not None:
            check(callable(self.solver), "solver", self.solver, "a function or None")
        if self.factor_dtype is not None:
            wide = jnp.dtype(self.factor_dtype) in (jnp.float32, jnp.float64)
            check(wide, "factor_dtype", self.factor_dtype, "float32, float64 or None")
        if self.mu_dtype is not None:
            floating = jnp.issubdtype(self.mu_dtype, jnp.floating)
            check(floating, "mu_dtype", self.mu_dtype, "a floating dtype or None")

    @property
    def keeps_spectra(self) -> bool:
        """Whether eigenvalues of the factors are kept: where a root is formed from a basis."""
        if self.preconditioner == "root_inverse":
            return False
        return self.preconditioner == "eigendecomposed" or self.factors != "gram"


@dataclasses.dataclass(frozen=True)
class Sharding:
    """Which devices share the blocks.

    Attributes:
      mesh: devices that share the blocks; None = the mesh of the context (`jax.set_mesh`), or the
        axes of the shard_map that the caller is inside; without any, one device.
      mesh_axes: axes of the mesh over which the blocks are dealt; None = all.
      param_specs: tree of PartitionSpecs of the gradients, for sharded parameters under Auto axes:
        they are then gathered in one collective, and updates leave with the same specs. They may
        come with a call instead, `update(grads, state, params, param_specs=...)`: a training loop
        knows them. Under Explicit axes the types tell.
      gather_dtype: dtype in which directions are gathered, e.g. bfloat16; None = exact.
      gather_bytes: of sharded gradients that a device holds whole at a time. More than that are
        gathered in rounds of a few leaves, or layers of a stack, and the directions leave in such
        rounds: the same results and bytes on the network, more collectives, less memory.
    """

    mesh: Mesh | AbstractMesh | None = None
    mesh_axes: Sequence[str] | None = None
    param_specs: Any = None
    gather_dtype: DTypeLike | None = None
    gather_bytes: int = 2**30

    def __post_init__(self) -> None:
        _set(self, "gather_bytes", integer("gather_bytes", self.gather_bytes))


class Momentum(NamedTuple):
    """Classic momentum, applied to the direction after the decay.

    Attributes:
      coefficient: of the heavy ball, in [0, 1).
      dampening: 1 - the weight of a new direction, in [0, 1].
      nesterov: look ahead.
    """

    coefficient: ArrayLike = 0.9
    dampening: ArrayLike = 0.0
    nesterov: bool = False


def _set(record: Any, name: str, value: Any) -> None:
    object.__setattr__(record, name, value)


def integer(name: str, value: Any, *, expected: str = "an integer >= 1") -> int:
    """Return an argument that counts something as a Python int.

    Raises:
      ValueError: it is no integer of any kind, or below 1.
    """
    try:
        number = 0 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = 0
    check(number >= 1, name, value, expected)
    return number


def optional_integer(name: str, value: Any) -> int | None:
    """Return `integer`, or None."""
    return None if value is None else integer(name, value, expected="an integer >= 1 or None")


def check(ok: bool, name: str, value: Any, expected: str) -> None:
    """Refuse an argument in one line.

    Raises:
      ValueError: not `ok`.
    """
    if not ok:
        raise ValueError(f"{name}: expected {expected}, found {value!r}")


def check_number(
    name: str, value: Any, low: float, high: float, *, open_high: bool = False
) -> None:
    """Check a plain number; traced hyperparameters cannot be checked."""
    if not isinstance(value, (int, float)):
        return
    ok = low <= value and (value < high if open_high else value <= high)
    bracket = ")" if open_high else "]"
    check(ok and not math.isnan(value), name, value, f"a number in [{low:g}, {high:g}{bracket}")
