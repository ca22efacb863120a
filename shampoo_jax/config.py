"""Hyperparameters of Shampoo, validated where they enter."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jax.typing import ArrayLike

from shampoo_jax import grafting as grafting_lib
from shampoo_jax import roots
from shampoo_jax.injection import HYPERPARAMETERS
from shampoo_jax.options import Blocks, Momentum, Refresh, Root, check, check_number


@dataclasses.dataclass(frozen=True)
class ShampooConfig:
    """The arguments of `shampoo_jax.scale_by_shampoo`, which documents each of them.

    Numbers may be traced (optax.inject_hyperparams); what decides shapes or programs is static.
    """

    b1: ArrayLike
    b2: ArrayLike
    b3: ArrayLike | None
    eps: ArrayLike
    momentum: ArrayLike
    dampening: ArrayLike
    nesterov: bool
    weight_decay: optax.ScalarOrSchedule
    grafting: Any
    blocks: Blocks
    refresh: Refresh
    root: Root

    def __post_init__(self):
        _validate(self)

    @property
    def eigenvalue_corrected(self) -> bool:
        """Whether a second moment is kept in the eigenbasis (EShampoo, SOAP)."""
        return self.root.preconditioner in ("eigenvalue_corrected", "soap")

    @property
    def refreshes_last(self) -> bool:
        """Whether a step uses the bases of the step before (SOAP)."""
        return self.root.preconditioner == "soap"

    @property
    def keeps_spectra(self) -> bool:
        """Whether eigenvalues of the factors are kept beside their eigenvectors."""
        return self.root.keeps_spectra

    @property
    def packs_factors(self) -> bool:
        """Whether factors are kept packed: unless every step reads them whole."""
        return not self.root.track_eigenvalues

    @property
    def solver(self) -> Callable[..., roots.Refreshed]:
        """The function that refreshes a root or a basis."""
        inverse = self.root.preconditioner == "root_inverse"
        return self.root.solver or (roots.eigh_root if inverse else roots.eigh_basis)

    @property
    def start(self) -> int:
        """First step that may refresh a root."""
        given = self.refresh.start_preconditioning_step
        if given is not None:
            return given
        return 1 if self.refreshes_last else self.refresh.precondition_frequency

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

    def grafts(self, alone: bool) -> bool:
        """Return whether directions take the norm of a grafting method, or are its own.

        Args:
          alone: for the blocks without factors, which it steps alone, or for the others.
        """
        if isinstance(self.grafting, str):
            # Eigenvalues that are renewed at every step are right in scale, from the first on.
            scaled = self.root.track_eigenvalues and not alone
            return not (self.eigenvalue_corrected or scaled)
        return self.grafting is not None

    def graft(self, alone: bool) -> grafting_lib.Grafting:
        """Return the grafting method; without one, a stand-in whose result is not used."""
        if self.grafting is None or not self.grafts(alone):
            return grafting_lib.sgd()
        if isinstance(self.grafting, str):
            is_sum = isinstance(self.b2, int | float) and self.b2 == 1
            return grafting_lib.adagrad() if is_sum else grafting_lib.adam(b2=self.b2)
        return self.grafting

    @property
    def traced(self) -> dict[str, Any]:
        """The hyperparameters that are arrays, which a shard_map must be given as arguments."""
        values = {name: getattr(self, name) for name in (*HYPERPARAMETERS, "dampening")}
        return {
            name: value
            for name, value in values.items()
            if not (value is None or isinstance(value, int | float) or callable(value))
        }

    def power(self, order: int) -> float:
        """Return the exponent of the eigenvalue-corrected second moment for blocks of an order."""
        exponent = self.root.eigenvalue_exponent
        return exponent.get(order, 0.5) if isinstance(exponent, Mapping) else exponent

    def at(self, count: jax.Array) -> "ShampooConfig":
        """Return the configuration with schedules evaluated (`count` from 0, as in optax)."""
        decay = self.weight_decay
        return dataclasses.replace(self, weight_decay=decay(count) if callable(decay) else decay)


def make_config(
    *,
    b1: ArrayLike,
    b2: ArrayLike,
    b3: ArrayLike | None,
    eps: ArrayLike,
    momentum: ArrayLike | Momentum,
    weight_decay: optax.ScalarOrSchedule,
    grafting: Any,
    blocks: Blocks,
    refresh: Refresh,
    root: Root,
) -> ShampooConfig:
    """Return the configuration of the arguments of `scale_by_shampoo`.

    Raises:
      ValueError: a hyperparameter out of range, or contradictory ones.
    """
    heavy_ball = momentum if isinstance(momentum, Momentum) else Momentum(momentum)
    return ShampooConfig(
        b1=b1,
        b2=b2,
        b3=b3,
        eps=eps,
        momentum=heavy_ball.coefficient,
        dampening=heavy_ball.dampening,
        nesterov=heavy_ball.nesterov,
        weight_decay=weight_decay,
        grafting=grafting_lib.as_grafting(grafting),
        blocks=blocks,
        refresh=refresh,
        root=root,
    )


def _is_zero(x) -> bool:
    return isinstance(x, (int, float)) and x == 0


def check_weight_decay(value: optax.ScalarOrSchedule) -> None:
    """Refuse a negative number."""
    check_number("weight_decay", value, 0, math.inf, open_high=True)


def _validate(c: ShampooConfig) -> None:
    for name in ("b1", "b2", "b3", "eps", "momentum"):
        what = "a number; for a schedule, optax.inject_hyperparams around the transformation"
        check(not callable(getattr(c, name)), name, getattr(c, name), what)
    check_number("b1", c.b1, 0, 1, open_high=True)
    check_number("b2", c.b2, 0, 1)
    check_number("b3", c.b3, 0, 1, open_high=True)
    check_number("eps", c.eps, 0, math.inf, open_high=True)
    check_number("momentum", c.momentum, 0, 1, open_high=True)
    check_number("dampening", c.dampening, 0, 1, open_high=True)
    check_weight_decay(c.weight_decay)
    method = c.grafting is None or isinstance(c.grafting, grafting_lib.Grafting)
    method = method or (isinstance(c.grafting, str) and c.grafting == "auto")
    check(method, "grafting", c.grafting, "'auto', None or a method such as grafting.adam()")
    for name, kind in (("blocks", Blocks), ("refresh", Refresh), ("root", Root)):
        value = getattr(c, name)
        check(isinstance(value, kind), name, value, f"a shampoo_jax.{kind.__name__}")
    check(not _is_zero(c.momentum) or not c.nesterov, "nesterov", True, "False without momentum")
    check(not _is_zero(c.b1) or c.b3 is None, "b3", c.b3, "None when b1 is 0")
