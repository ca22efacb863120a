"""`shampoo` and `soap`: compositions ready to replace optax.adamw."""

import inspect
from typing import Any, Literal

import optax

from shampoo_jax.transform import scale_by_shampoo

DecayType = Literal["decoupled", "corrected", "independent", "l2"]

# For optax.inject_hyperparams(shampoo, static_args=STATIC_ARGS): all that is not a number that may
# change from step to step.
STATIC_ARGS = (
    "bias_correction",
    "block_size",
    "decay_type",
    "exponents",
    "eigenvalue_exponent",
    "factor_dtype",
    "gather_dtype",
    "grafting",
    "mask",
    "max_pools",
    "max_residual",
    "mesh",
    "mesh_axes",
    "nesterov",
    "param_specs",
    "peak_learning_rate",
    "precision",
    "precondition_frequency",
    "preconditioner",
    "relative_eps",
    "root",
    "round_to",
    "stagger",
    "start_preconditioning_step",
    "statistics_frequency",
    "target_dimensionality",
)


def _spell_out(function, options_of, *, without=()):
    """Replace **options in the signature, which optax.inject_hyperparams and help() read."""
    own = dict(inspect.signature(function).parameters)
    del own["options"]
    other = inspect.signature(options_of).parameters
    rest = {k: v for k, v in other.items() if k not in own and k not in without}
    function.__signature__ = inspect.Signature([*own.values(), *rest.values()])
    return function


def _scheduled(learning_rate, factor):
    """Return factor * learning_rate, as a schedule where the learning rate is one."""
    if callable(learning_rate):
        return lambda count: factor * learning_rate(count)
    return factor * learning_rate


def _decay(weight_decay, decay_type: DecayType, learning_rate, peak_learning_rate):
    """Return what to add to the direction, a multiple of the parameters."""
    if decay_type in ("decoupled", "l2"):
        return weight_decay
    if decay_type not in ("corrected", "independent"):
        raise ValueError(
            "shampoo: decay_type must be decoupled, corrected, independent or l2, "
            f"got {decay_type=}"
        )
    if peak_learning_rate is None:
        if callable(learning_rate):
            raise ValueError(
                f"shampoo: {decay_type=} with a schedule needs peak_learning_rate, got None"
            )
        peak_learning_rate = learning_rate
    if decay_type == "independent":
        return weight_decay / peak_learning_rate
    return _scheduled(learning_rate, weight_decay / peak_learning_rate)


def shampoo(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: Any = 0.0,
    decay_type: DecayType = "decoupled",
    peak_learning_rate: float | None = None,
    mask: Any = None,
    **options,
) -> optax.GradientTransformationExtraArgs:
    """Build Distributed Shampoo with a learning rate and weight decay.

    With the default grafting a tuned learning rate of optax.adamw is a good first one.

    Args:
      learning_rate: number or schedule.
      weight_decay: see `decay_type`; 0 = none.
      decay_type: `decoupled` W <- W - lr (P + wd W), as AdamW; `corrected`: wd is scaled by
        lr_t / peak; `independent`: wd is divided by the peak, so that W shrinks by wd a step at
        the peak; `l2`: wd W is added to the gradient.
      peak_learning_rate: of a schedule, where `decay_type` needs it.
      mask: tree of bools or function of the parameters: where decay applies.
      **options: of `scale_by_shampoo`.

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
    if decay_type == "l2":
        return optax.chain(
            optax.add_decayed_weights(decay, mask),
            scale_by_shampoo(**options),
            optax.scale_by_learning_rate(learning_rate),
        )
    return optax.chain(
        scale_by_shampoo(weight_decay=decay, mask=mask, **options),
        optax.scale_by_learning_rate(learning_rate),
    )


def soap(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Any = 0.95,
    b2: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    mask: Any = None,
    **options,
) -> optax.GradientTransformationExtraArgs:
    """Build SOAP: Adam in the eigenbasis of Shampoo's factors (arXiv 2409.11321).

    Args:
      learning_rate: number or schedule.
      b1: decay of the filtered gradient.
      b2: decay of the factors and of the second moment.
      eps: added to the root of the second moment.
      weight_decay: decoupled.
      mask: tree of bools or function of the parameters: where decay applies.
      **options: of `scale_by_shampoo`.

    Returns:
      An optax transformation.
    """
    return shampoo(
        learning_rate,
        b1=b1,
        b2=b2,
        eps=eps,
        relative_eps=False,
        preconditioner="eigenvalue_corrected",
        weight_decay=weight_decay,
        mask=mask,
        **options,
    )


_spell_out(shampoo, scale_by_shampoo)
_spell_out(soap, shampoo, without=("relative_eps", "preconditioner"))
