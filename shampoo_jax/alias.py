"""`shampoo` and `soap`: compositions ready to replace optax.adamw.

Their signatures repeat that of `scale_by_shampoo` in full, so that an editor completes them and a
misspelt option is a static error; what an option means is said there only.
"""

import dataclasses
from typing import Any, Literal, get_args

import optax
from jax.typing import ArrayLike

from shampoo_jax.config import check_weight_decay
from shampoo_jax.dimension_numbers import Rule
from shampoo_jax.injection import injectable
from shampoo_jax.options import Blocks, Momentum, Refresh, Root, Sharding
from shampoo_jax.transform import scale_by_shampoo

DecayType = Literal["decoupled", "corrected", "independent", "l2"]


def value_at(value: optax.ScalarOrSchedule, count: Any) -> Any:
    """Return a number, or what a schedule says at a step (`count` from 0)."""
    return value(count) if callable(value) else value


def _product(a: optax.ScalarOrSchedule, b: optax.ScalarOrSchedule) -> optax.ScalarOrSchedule:
    """Return a b, as a schedule where one of them is one."""
    if callable(a) or callable(b):
        return lambda count: value_at(a, count) * value_at(b, count)
    return a * b


def decay_multiple(
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
    momentum: ArrayLike | Momentum = 0.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    decay_type: DecayType = "decoupled",
    peak_learning_rate: float | None = None,
    mask: optax.MaskOrFn = None,
    grafting: optax.GradientTransformation | Literal["auto"] | None = "auto",
    dimension_numbers: Rule | None = None,
    blocks: Blocks = Blocks(),
    refresh: Refresh = Refresh(),
    root: Root = Root(),
    sharding: Sharding = Sharding(),
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
    decay = decay_multiple(weight_decay, decay_type, learning_rate, peak_learning_rate)
    coupled = decay_type == "l2"
    scale = scale_by_shampoo(
        b1=b1,
        b2=b2,
        b3=b3,
        eps=eps,
        momentum=momentum,
        weight_decay=0.0 if coupled else decay,
        mask=None if coupled else mask,
        grafting=grafting,
        dimension_numbers=dimension_numbers,
        blocks=blocks,
        refresh=refresh,
        root=root,
        sharding=sharding,
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
    momentum: ArrayLike | Momentum = 0.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    decay_type: DecayType = "decoupled",
    peak_learning_rate: float | None = None,
    mask: optax.MaskOrFn = None,
    grafting: optax.GradientTransformation | Literal["auto"] | None = "auto",
    dimension_numbers: Rule | None = None,
    blocks: Blocks = Blocks(),
    refresh: Refresh = Refresh(),
    root: Root = Root(),
    sharding: Sharding = Sharding(),
) -> optax.GradientTransformationExtraArgs:
    """Build SOAP: Adam in the eigenbasis of Shampoo's factors (arXiv 2409.11321).

    Args:
      learning_rate: number or schedule.
      b1: decay of the filtered gradient.
      b2: decay of the factors and of the second moment.
      eps: added to the root of the second moment.
      root: as in `shampoo`, its default preconditioner "soap". "eigenvalue_corrected" is the order
        of the PyTorch original, which uses a basis in the step that refreshes it.
      ...: all others are those of `shampoo`.

    Returns:
      An optax transformation.
    """
    if root.preconditioner == "root_inverse":
        root = dataclasses.replace(root, preconditioner="soap")
    return shampoo(
        learning_rate,
        b1=b1,
        b2=b2,
        b3=b3,
        eps=eps,
        momentum=momentum,
        weight_decay=weight_decay,
        decay_type=decay_type,
        peak_learning_rate=peak_learning_rate,
        mask=mask,
        grafting=grafting,
        dimension_numbers=dimension_numbers,
        blocks=blocks,
        refresh=refresh,
        root=root,
        sharding=sharding,
    )
