"""`shampoo` and `soap`: compositions ready to replace optax.adamw.

Their signatures repeat that of `scale_by_shampoo` in full, so that an editor completes them and a
misspelt option is a static error; what an option means is said there only.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import optax
from jax.lax import PrecisionLike
from jax.sharding import AbstractMesh, Mesh
from jax.typing import ArrayLike, DTypeLike

from shampoo_jax.config import Preconditioner, check_weight_decay
from shampoo_jax.injection import injectable, static_args
from shampoo_jax.plan import Shape
from shampoo_jax.roots import Refreshed
from shampoo_jax.transform import scale_by_shampoo

DecayType = Literal["decoupled", "corrected", "independent", "l2"]


def _at(value: optax.ScalarOrSchedule, count: Any) -> Any:
    return value(count) if callable(value) else value


def _product(a: optax.ScalarOrSchedule, b: optax.ScalarOrSchedule) -> optax.ScalarOrSchedule:
    """Return a b, as a schedule where one of them is one."""
    if callable(a) or callable(b):
        return lambda count: _at(a, count) * _at(b, count)
    return a * b


def _decay(
    weight_decay: optax.ScalarOrSchedule,
    decay_type: DecayType,
    learning_rate: optax.ScalarOrSchedule,
    peak_learning_rate: float | None,
) -> optax.ScalarOrSchedule:
    """Return what to add to the direction, a multiple of the parameters."""
    check_weight_decay(weight_decay)
    if decay_type in ("decoupled", "l2"):
        return weight_decay
    if decay_type not in get_args(DecayType):
        raise ValueError(f"decay_type: expected one of {get_args(DecayType)}, found {decay_type!r}")
    if peak_learning_rate is None:
        if not isinstance(learning_rate, int | float):
            raise ValueError(
                "peak_learning_rate: expected a number, since decay_type="
                f"{decay_type!r} and the learning rate changes, found None"
            )
        peak_learning_rate = learning_rate
    relative = _product(weight_decay, 1 / peak_learning_rate)
    return relative if decay_type == "independent" else _product(relative, learning_rate)


@injectable
def shampoo(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.95,
    b3: ArrayLike | None = None,
    eps: ArrayLike = 1e-6,
    relative_eps: bool = True,
    grafting: optax.GradientTransformation | Literal["auto"] | None = "auto",
    precondition_frequency: int = 10,
    start_preconditioning_step: int | None = None,
    statistics_frequency: int = 1,
    stagger: bool = True,
    preconditioner: Preconditioner = "root_inverse",
    eigenvalue_exponent: float | Mapping[int, float] = 0.5,
    root: Callable[..., Refreshed] | None = None,
    max_residual: float = 0.1,
    bias_correction: bool = True,
    momentum: ArrayLike = 0.0,
    dampening: ArrayLike = 0.0,
    nesterov: bool = False,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    decay_type: DecayType = "decoupled",
    peak_learning_rate: float | None = None,
    mask: optax.MaskOrFn = None,
    block_size: int | None = 128,
    target_dimensionality: int | None = 1,
    exponents: Callable[[Shape], Sequence[float]] | None = None,
    max_pools: int = 12,
    round_to: int = 8,
    factor_dtype: DTypeLike | None = None,
    precision: PrecisionLike = None,
    gather_dtype: DTypeLike | None = None,
    mesh: Mesh | AbstractMesh | None = None,
    mesh_axes: Sequence[str] | None = None,
    param_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Build Distributed Shampoo with a learning rate and weight decay.

    With the default grafting a tuned learning rate of optax.adamw is a good first one.

    Args:
      learning_rate: number or schedule.
      weight_decay: see `decay_type`; 0 = none.
      decay_type: `decoupled` W <- W - lr (P + wd W), as AdamW; `corrected`: wd is scaled by
        lr_t / peak; `independent`: wd is divided by the peak, so that W shrinks by wd per step at
        the peak; `l2`: wd W is added to the gradient.
      peak_learning_rate: of a schedule, where `decay_type` needs it.
      mask: tree of bools or function of the parameters: where decay applies.
      ...: all others are those of `scale_by_shampoo`.

    Returns:
      An optax transformation.

    Raises:
      ValueError: an unknown `decay_type`, a missing peak, or as `scale_by_shampoo`.

    Example:
      >>> import jax, jax.numpy as jnp, optax, shampoo_jax
      >>> tx = shampoo_jax.shampoo(1e-1)
      >>> params = {'w': jnp.ones((4, 3))}
      >>> state = tx.init(params)
      >>> loss = lambda p: jnp.sum(p['w'] ** 2)
      >>> before = loss(params)
      >>> for _ in range(3):
      ...   updates, state = tx.update(jax.grad(loss)(params), state, params)
      ...   params = optax.apply_updates(params, updates)
      >>> bool(loss(params) < before)
      True
    """
    decay = _decay(weight_decay, decay_type, learning_rate, peak_learning_rate)
    coupled = decay_type == "l2"
    scale = scale_by_shampoo(
        b1=b1,
        b2=b2,
        b3=b3,
        eps=eps,
        relative_eps=relative_eps,
        grafting=grafting,
        precondition_frequency=precondition_frequency,
        start_preconditioning_step=start_preconditioning_step,
        statistics_frequency=statistics_frequency,
        stagger=stagger,
        preconditioner=preconditioner,
        eigenvalue_exponent=eigenvalue_exponent,
        root=root,
        max_residual=max_residual,
        bias_correction=bias_correction,
        momentum=momentum,
        dampening=dampening,
        nesterov=nesterov,
        block_size=block_size,
        target_dimensionality=target_dimensionality,
        exponents=exponents,
        max_pools=max_pools,
        round_to=round_to,
        factor_dtype=factor_dtype,
        precision=precision,
        gather_dtype=gather_dtype,
        mesh=mesh,
        mesh_axes=mesh_axes,
        param_specs=param_specs,
        weight_decay=0.0 if coupled else decay,
        mask=None if coupled else mask,
    )
    step = optax.scale_by_learning_rate(learning_rate)
    if coupled:
        return optax.chain(optax.add_decayed_weights(decay, mask), scale, step)
    return optax.chain(scale, step)


@injectable
def soap(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.95,
    b2: ArrayLike = 0.95,
    b3: ArrayLike | None = None,
    eps: ArrayLike = 1e-8,
    grafting: optax.GradientTransformation | Literal["auto"] | None = "auto",
    precondition_frequency: int = 10,
    start_preconditioning_step: int | None = None,
    statistics_frequency: int = 1,
    stagger: bool = True,
    eigenvalue_exponent: float | Mapping[int, float] = 0.5,
    root: Callable[..., Refreshed] | None = None,
    max_residual: float = 0.1,
    bias_correction: bool = True,
    momentum: ArrayLike = 0.0,
    dampening: ArrayLike = 0.0,
    nesterov: bool = False,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    decay_type: DecayType = "decoupled",
    peak_learning_rate: float | None = None,
    mask: optax.MaskOrFn = None,
    block_size: int | None = 128,
    target_dimensionality: int | None = 1,
    exponents: Callable[[Shape], Sequence[float]] | None = None,
    max_pools: int = 12,
    round_to: int = 8,
    factor_dtype: DTypeLike | None = None,
    precision: PrecisionLike = None,
    gather_dtype: DTypeLike | None = None,
    mesh: Mesh | AbstractMesh | None = None,
    mesh_axes: Sequence[str] | None = None,
    param_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Build SOAP: Adam in the eigenbasis of Shampoo's factors (arXiv 2409.11321).

    Args:
      learning_rate: number or schedule.
      b1: decay of the filtered gradient.
      b2: decay of the factors and of the second moment.
      eps: added to the root of the second moment.
      ...: all others are those of `shampoo`.

    Returns:
      An optax transformation.
    """
    return shampoo(
        learning_rate,
        b1=b1,
        b2=b2,
        b3=b3,
        eps=eps,
        grafting=grafting,
        precondition_frequency=precondition_frequency,
        start_preconditioning_step=start_preconditioning_step,
        statistics_frequency=statistics_frequency,
        stagger=stagger,
        eigenvalue_exponent=eigenvalue_exponent,
        root=root,
        max_residual=max_residual,
        bias_correction=bias_correction,
        momentum=momentum,
        dampening=dampening,
        nesterov=nesterov,
        weight_decay=weight_decay,
        mask=mask,
        block_size=block_size,
        target_dimensionality=target_dimensionality,
        exponents=exponents,
        max_pools=max_pools,
        round_to=round_to,
        factor_dtype=factor_dtype,
        precision=precision,
        gather_dtype=gather_dtype,
        mesh=mesh,
        mesh_axes=mesh_axes,
        param_specs=param_specs,
        decay_type=decay_type,
        peak_learning_rate=peak_learning_rate,
        relative_eps=False,
        preconditioner="soap",
    )


# For optax.inject_hyperparams(shampoo, static_args=STATIC_ARGS), where one wants them spelt out.
STATIC_ARGS = static_args(shampoo)
