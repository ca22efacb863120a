"""Hyperparameters of Shampoo, validated where they enter."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from shampoo_jax import grafting as grafting_lib
from shampoo_jax import roots
from shampoo_jax.plan import PlanConfig

# Those that may change from step to step.
HYPERPARAMETERS = ("b1", "b2", "b3", "eps", "momentum", "dampening", "weight_decay")


@dataclasses.dataclass(frozen=True)
class ShampooConfig:
    """The arguments of `shampoo_jax.scale_by_shampoo`, which documents each of them.

    Numbers may be traced (optax.inject_hyperparams); what decides shapes or programs is static.
    """

    b1: Any
    b2: Any
    b3: Any
    eps: Any
    relative_eps: bool
    preconditioner: Literal["root_inverse", "eigenvalue_corrected"]
    eigenvalue_exponent: float | Mapping[int, float]
    root: Callable[..., roots.Refreshed]
    max_residual: float
    grafting: optax.GradientTransformation | Literal["auto"] | None
    precondition_frequency: int
    start_preconditioning_step: int | None
    statistics_frequency: int
    stagger: bool
    bias_correction: bool
    momentum: Any
    dampening: Any
    nesterov: bool
    weight_decay: Any
    factor_dtype: Any
    precision: Any
    plan: PlanConfig

    def __post_init__(self):
        _validate(self)

    @property
    def eigenvalue_corrected(self) -> bool:
        """Whether a second moment is kept in the eigenbasis (EShampoo, SOAP)."""
        return self.preconditioner == "eigenvalue_corrected"

    @property
    def uses_filter(self) -> bool:
        """Whether gradients are averaged; a traced b1 always is."""
        return not _is_zero(self.b1)

    @property
    def uses_momentum(self) -> bool:
        """Whether classic momentum has a buffer."""
        return not _is_zero(self.momentum)

    @property
    def uses_decay(self) -> bool:
        """Whether updates need the parameters."""
        return not _is_zero(self.weight_decay)

    @property
    def start(self) -> int:
        """First step that may refresh a root."""
        if self.start_preconditioning_step is None:
            return self.precondition_frequency
        return self.start_preconditioning_step

    @property
    def phases(self) -> int:
        """Number of groups that blocks are dealt into for refreshing."""
        return self.precondition_frequency if self.stagger else 1

    @property
    def grafts(self) -> bool:
        """Whether directions take the norm of a grafting method."""
        if isinstance(self.grafting, str):
            return not self.eigenvalue_corrected
        return self.grafting is not None

    @property
    def graft(self) -> grafting_lib.Grafting:
        """The grafting method; without one, a stateless stand-in whose result is not used."""
        if not self.grafts:
            return grafting_lib.sgd()
        if isinstance(self.grafting, str):
            is_sum = isinstance(self.b2, int | float) and self.b2 == 1
            return grafting_lib.adagrad() if is_sum else grafting_lib.adam(b2=self.b2)
        if isinstance(self.grafting, grafting_lib.Grafting):
            return self.grafting
        return grafting_lib.elementwise(self.grafting)

    @property
    def traced(self) -> dict[str, Any]:
        """The hyperparameters that are arrays, which a shard_map must be given as arguments."""
        values = {name: getattr(self, name) for name in HYPERPARAMETERS}
        return {
            name: value
            for name, value in values.items()
            if not (value is None or isinstance(value, int | float) or callable(value))
        }

    def power(self, order: int) -> float:
        """Return the exponent of the eigenvalue-corrected second moment for blocks of an order."""
        if isinstance(self.eigenvalue_exponent, Mapping):
            return self.eigenvalue_exponent.get(order, 0.5)
        return self.eigenvalue_exponent

    def at(self, count: jax.Array) -> "ShampooConfig":
        """Return the configuration with schedules evaluated (`count` from 0, as in optax)."""
        decay = self.weight_decay
        return dataclasses.replace(self, weight_decay=decay(count) if callable(decay) else decay)


def _is_zero(x) -> bool:
    return isinstance(x, (int, float)) and x == 0


def _check(ok: bool, name: str, value, expected: str) -> None:
    if not ok:
        raise ValueError(f"shampoo: {name} must be {expected}, got {name}={value!r}")


def _check_number(name: str, value, low: float, high: float, *, open_high: bool = False) -> None:
    """Check a plain number; traced hyperparameters cannot be checked."""
    if not isinstance(value, (int, float)):
        return
    ok = low <= value and (value < high if open_high else value <= high)
    bracket = ")" if open_high else "]"
    _check(ok and not math.isnan(value), name, value, f"in [{low:g}, {high:g}{bracket}")


def _validate(c: ShampooConfig) -> None:
    _check_number("b1", c.b1, 0, 1, open_high=True)
    _check_number("b2", c.b2, 0, 1)
    _check_number("b3", c.b3, 0, 1, open_high=True)
    _check_number("eps", c.eps, 0, math.inf, open_high=True)
    _check_number("momentum", c.momentum, 0, 1, open_high=True)
    _check_number("dampening", c.dampening, 0, 1, open_high=True)
    _check_number("weight_decay", c.weight_decay, 0, math.inf, open_high=True)
    method = not isinstance(c.grafting, str) or c.grafting == "auto"
    _check(method, "grafting", c.grafting, "'auto', None or a method")
    kinds = ("root_inverse", "eigenvalue_corrected")
    _check(c.preconditioner in kinds, "preconditioner", c.preconditioner, f"one of {kinds}")
    for name in ("precondition_frequency", "statistics_frequency"):
        value = getattr(c, name)
        _check(isinstance(value, int) and value >= 1, name, value, "an integer >= 1")
    _check_plan(c.plan)
    start = c.start_preconditioning_step
    _check(start is None or start >= 1, "start_preconditioning_step", start, "None or >= 1")
    if not c.stagger and start is not None:
        expected = f"at least precondition_frequency={c.precondition_frequency} unless stagger"
        _check(start >= c.precondition_frequency, "start_preconditioning_step", start, expected)
    _check(c.max_residual > 0, "max_residual", c.max_residual, "positive")
    _check(not _is_zero(c.momentum) or not c.nesterov, "nesterov", True, "False without momentum")
    _check(not _is_zero(c.b1) or c.b3 is None, "b3", c.b3, "None when b1 is 0")
    if c.factor_dtype is not None:
        floating = jnp.issubdtype(c.factor_dtype, jnp.floating)
        _check(floating, "factor_dtype", c.factor_dtype, "a floating dtype or None")


def _check_plan(plan: PlanConfig) -> None:
    size = plan.block_size
    ok = size is None or (isinstance(size, int) and size >= 1)
    _check(ok, "block_size", size, "'auto', None (no split) or >= 1")
    target = plan.target_dimensionality
    _check(
        target is None or target >= 1, "target_dimensionality", target, "None (no merging) or >= 1"
    )
    _check(plan.max_pools >= 1, "max_pools", plan.max_pools, ">= 1")
    _check(plan.round_to >= 1, "round_to", plan.round_to, ">= 1")
