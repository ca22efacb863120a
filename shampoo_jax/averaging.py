"""Schedule-free training and generalized primal averaging around any transformation.

Three sequences: Z takes the steps, X averages Z and is what to evaluate, and gradients are taken at
Y between the two, the parameters that training sees:

    Z <- Z + U                       U the update of the transformation
    X <- m X + (1 - m) Z             m = `evaluation`, or 1 - lr_t^p / sum_s lr_s^p
    Y  = t X + (1 - t) Z             t = `training`

With the growing weight it is Schedule-Free (arXiv 2405.15682), with a number GPA (arXiv
2512.17131). Only Z is stored: X is a function of Y and Z. `optax.contrib.schedule_free` differs: it
weights by the largest learning rate so far and knows no constant m; here a step at a lowered rate
weighs less too.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from shampoo_jax.alias import DecayType, decay_multiple, value_at
from shampoo_jax.alignment import decay_flags
from shampoo_jax.options import check, check_number
from shampoo_jax.state import find_states


class AveragedState(NamedTuple):
    """State of `averaged`."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  # int32 [], steps taken
    z: optax.Params  # the sequence that takes the steps: float32, float64 where parameters are
    total: jax.Array  # float32 []: sum of the weights lr_t^p so far
    training: jax.Array  # float32 []: t, by which X is found again
    inner: optax.OptState


def averaged(
    tx: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    *,
    training: float = 0.9,
    evaluation: float | None = None,
    weight_power: float = 2.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    decay_type: DecayType = "decoupled",
    peak_learning_rate: float | None = None,
    mask: optax.MaskOrFn = None,
) -> optax.GradientTransformationExtraArgs:
    """Average the steps of a transformation, instead of a momentum or a decay of its rate.

    Example: `averaged(shampoo(1e-2, b1=0.0), 1e-2)` is Schedule-Free, with `evaluation=0.99` GPA.

    Args:
      tx: makes the updates, without momentum and without a decay of its own.
      learning_rate: that of `tx`, a number or a schedule: it weights the average and the decay.
      training: share of the average in the parameters at which gradients are taken, in (0, 1].
      evaluation: share of the old average in the new one, in [0, 1); None = Schedule-Free.
      weight_power: p of the weights lr^p, Schedule-Free only.
      weight_decay: of Z, in proportion to the learning rate, as `decay_type` says.
      decay_type: as in `shampoo`; "l2" belongs to `tx`.
      peak_learning_rate: of a schedule, where `decay_type` needs it.
      mask: tree of bools, a prefix of that of the parameters, or a function of them giving one.

    Returns:
      An optax transformation whose parameters are Y; `averaged_params` gives X. A leaf whose
      gradient is None is skipped.

    Raises:
      ValueError: a number out of range, decay_type "l2", no parameters at an update.
    """
    check(0 < training <= 1, "training", training, "a number in (0, 1]")
    if evaluation is not None:
        check_number("evaluation", evaluation, 0, 1, open_high=True)
    check(decay_type != "l2", "decay_type", decay_type, "another one: l2 is of the transformation")
    multiple = decay_multiple(weight_decay, decay_type, learning_rate, peak_learning_rate)
    inner = optax.with_extra_args_support(tx)

    def init(params: Any) -> Any:
        return AveragedState(
            count=jnp.zeros((), jnp.int32),
            z=jax.tree.map(_wide_copy, params),
            total=jnp.zeros((), jnp.float32),
            training=jnp.asarray(training, jnp.float32),
            inner=inner.init(params),
        )

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        check(params is not None, "params", params, "the parameters, which are averaged")
        rate, wd = (value_at(value, state.count) for value in (learning_rate, multiple))
        keep, total = evaluation, state.total
        if keep is None:
            weight = jnp.asarray(rate, jnp.float32) ** weight_power
            total = total + weight
            keep = 1 - jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), 0)
        steps, new_inner = inner.update(updates, state.inner, params, **extra_args)
        decays = decay_flags(params, mask)

        def one(g, u, z, y, decay):
            if g is None:
                return jnp.zeros_like(y), z
            m, t = (jnp.asarray(x, z.dtype) for x in (keep, state.training))
            u = u.astype(z.dtype)
            z = z * (1 - jnp.asarray(rate * wd, z.dtype)) if decay else z
            move = (1 - m * t) * u + (1 - m) * (z - y.astype(z.dtype))
            return move.astype(y.dtype), z + u

        args = [_leaves(updates), _leaves(steps), *map(jax.tree.leaves, (state.z, params, decays))]
        new = [one(*leaf) for leaf in zip(*args, strict=True)]
        structure = jax.tree.structure(params)
        moves, z = (jax.tree.unflatten(structure, list(part)) for part in zip(*new))
        count: Any = optax.safe_increment(state.count)
        return moves, AveragedState(count, z, total, state.training, new_inner)

    return optax.GradientTransformationExtraArgs(init, update)


def averaged_params(state: optax.OptState, params: optax.Params) -> optax.Params:
    """Return X, the average, which is what to evaluate and to keep.

    Args:
      state: any optax state that holds one `AveragedState`.
      params: Y, the parameters of training.

    Raises:
      ValueError: `state` holds none, or several.
    """
    found = find_states(state, AveragedState)
    check(len(found) == 1, "state", type(state), "one that holds one AveragedState")
    z, t = found[0].z, found[0].training

    def one(y, z):
        share = t.astype(z.dtype)
        return ((y - (1 - share) * z) / share).astype(y.dtype)

    return jax.tree.map(one, params, z)


def _wide_copy(x: Any) -> jax.Array:
    return jnp.array(x, jnp.result_type(jnp.float32, x))  # not the same buffer: both are donated


def _leaves(tree: Any) -> list:
    return jax.tree.leaves(tree, is_leaf=lambda x: x is None)
