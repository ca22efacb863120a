"""Hyperparameters of Shampoo, validated where they enter."""

import dataclasses
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike

from shampoo_jax import grafting as grafting_lib
from shampoo_jax import roots
from shampoo_jax.injection import HYPERPARAMETERS
from shampoo_jax.plan import PlanConfig

Preconditioner = Literal["root_inverse", "eigenvalue_corrected", "soap"]


@dataclasses.dataclass(frozen=True)
class ShampooConfig:
    """The arguments of `shampoo_jax.scale_by_shampoo`, which documents each of them.

    Numbers may be traced (optax.inject_hyperparams); what decides shapes or programs is static.
    """

    b1: ArrayLike
    b2: ArrayLike
    b3: ArrayLike | None
    eps: ArrayLike
    relative_eps: bool
    preconditioner: Preconditioner
    eigenvalue_exponent: float | Mapping[int, float]
    root: Callable[..., roots.Refreshed]
    max_residual: float
    grafting: grafting_lib.Grafting | Literal["auto"] | None
    precondition_frequency: int
    start_preconditioning_step: int | None
    statistics_frequency: int
    stagger: bool
    bias_correction: bool
    momentum: ArrayLike
    dampening: ArrayLike
    nesterov: bool
    weight_decay: optax.ScalarOrSchedule
    factor_dtype: DTypeLike | None
    precision: jax.lax.PrecisionLike
    plan: PlanConfig

    def __post_init__(self):
        _validate(self)

    @property
    def eigenvalue_corrected(self) -> bool:
        """Whether a second moment is kept in the eigenbasis (EShampoo, SOAP)."""
        return self.preconditioner != "root_inverse"

    @property
    def refreshes_last(self) -> bool:
        """Whether a step uses the bases of the step before (SOAP)."""
        return self.preconditioner == "soap"

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
        if self.grafting is None or not self.grafts:
            return grafting_lib.sgd()
        if isinstance(self.grafting, str):
            is_sum = isinstance(self.b2, int | float) and self.b2 == 1
            return grafting_lib.adagrad() if is_sum else grafting_lib.adam(b2=self.b2)
        return self.grafting

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


def integer(name: str, value: Any, *, expected: str = "an integer >= 1") -> int:
    """Return an argument that counts something as a Python int.

    Raises:
      ValueError: it is no integer of any kind, or below 1.
    """
    try:
        number = 0 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = 0
    _check(number >= 1, name, value, expected)
    return number


def optional_integer(name: str, value: Any) -> int | None:
    """Return `integer`, or None."""
    return None if value is None else integer(name, value, expected="an integer >= 1 or None")


def _check(ok: bool, name: str, value, expected: str) -> None:
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
    _check(ok and not math.isnan(value), name, value, f"a number in [{low:g}, {high:g}{bracket}")


def check_weight_decay(value: optax.ScalarOrSchedule) -> None:
    """Refuse a negative number."""
    check_number("weight_decay", value, 0, math.inf, open_high=True)


def _validate(c: ShampooConfig) -> None:
    check_number("b1", c.b1, 0, 1, open_high=True)
    check_number("b2", c.b2, 0, 1)
    check_number("b3", c.b3, 0, 1, open_high=True)
    check_number("eps", c.eps, 0, math.inf, open_high=True)
    check_number("momentum", c.momentum, 0, 1, open_high=True)
    check_number("dampening", c.dampening, 0, 1, open_high=True)
    check_weight_decay(c.weight_decay)
    method = c.grafting is None or isinstance(c.grafting, grafting_lib.Grafting)
    method = method or (isinstance(c.grafting, str) and c.grafting == "auto")
    _check(method, "grafting", c.grafting, "'auto', None or a method such as grafting.adam()")
    kinds = get_args(Preconditioner)
    _check(c.preconditioner in kinds, "preconditioner", c.preconditioner, f"one of {kinds}")
    _validate_start(c)
    _check(c.max_residual > 0, "max_residual", c.max_residual, "a positive number")
    _check(not _is_zero(c.momentum) or not c.nesterov, "nesterov", True, "False without momentum")
    _check(not _is_zero(c.b1) or c.b3 is None, "b3", c.b3, "None when b1 is 0")
    if c.factor_dtype is not None:
        floating = jnp.issubdtype(c.factor_dtype, jnp.floating)
        _check(floating, "factor_dtype", c.factor_dtype, "a floating dtype or None")


def _validate_start(c: ShampooConfig) -> None:
    start, frequency = c.start_preconditioning_step, c.precondition_frequency
    if not c.stagger and start is not None:
        expected = f"at least precondition_frequency={frequency} unless stagger"
        _check(start >= frequency, "start_preconditioning_step", start, expected)
