"""`scale_by_shampoo`: Distributed Shampoo as an optax transformation."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from shampoo_jax import dimension_numbers as dims
from shampoo_jax import distribution, record
from shampoo_jax.alignment import align, masked_weights
from shampoo_jax.config import ShampooConfig, make_config
from shampoo_jax.injection import injectable
from shampoo_jax.options import Blocks, Momentum, Refresh, Root, Sharding
from shampoo_jax.plan import Plan, make_plan
from shampoo_jax.sharded_step import sharded_step
from shampoo_jax.state import PoolState, ShampooState, block_dtype, init_pools, records


@injectable
def scale_by_shampoo(
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.95,
    b3: ArrayLike | None = None,
    eps: ArrayLike = 1e-6,
    momentum: ArrayLike | Momentum = 0.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: optax.MaskOrFn = None,
    grafting: optax.GradientTransformation | Literal["auto"] | None = "auto",
    dimension_numbers: dims.Rule | None = None,
    blocks: Blocks = Blocks(),
    refresh: Refresh = Refresh(),
    root: Root = Root(),
    sharding: Sharding = Sharding(),
) -> optax.GradientTransformationExtraArgs:
    r"""Precondition gradients with Distributed Shampoo.

    A parameter is merged and split into blocks; a block with gradient G keeps one factor per dim,
    L_k <- b2 L_k + (1 - b2) G G^T (G unfolded along k), and its direction is the
    filtered gradient F multiplied along every dim by (L_k / (1 - b2^t) + eps I)^(-1/2), given
    the norm of the grafting method's direction. Blocks of all parameters are stacked into a few
    pools whose rows are sharded over the mesh; a step has one all-gather, of the directions.

    The result is the direction before the learning rate; `shampoo` adds it. Statistics are
    float32 (float64 for float64 parameters), updates have the dtype of the parameters.

    Args:
      b1: decay of the filtered gradient F; 0 = F is the gradient, and nothing is stored.
      b2: decay of the factors; 1 = their plain sum, as AdaGrad.
      b3: decay that F itself uses, F = b3 M + (1 - b3) G with the old average M; None = b1.
        A smaller one is NAdam-like.
      eps: ridge of a factor before its root; in the eigenvalue-corrected form, the term added
        to the root of the second moment.
      momentum: coefficient of the heavy ball, applied to the direction after the decay, or a
        `Momentum` with dampening or Nesterov's look ahead.
      weight_decay: decoupled, added to the direction; a number or an optax schedule.
      mask: tree of bools, a prefix of that of the parameters, or a function of them giving one:
        where decay applies.
      grafting: see `shampoo_jax.grafting`; "auto" = Adam with decay `b2` (AdaGrad where `b2` is 1),
        or none for the eigenvalue-corrected form, which needs none, and where `root` tracks
        eigenvalues, except for blocks without factors; None = no grafting.
      dimension_numbers: function (path, leaf) that says which axes of a parameter are stacks of
        layers or experts, which belong to one side of a matrix, and what the grafting method alone
        shall step. Ready ones are in `shampoo_jax.dimension_numbers`; None = by shape alone.
      blocks: how parameters are cut into blocks and stacked.
      refresh: when factors and roots are renewed.
      root: what is made of the factors, and by which solver.
      sharding: which devices share the blocks.

    Returns:
      An optax transformation with state `ShampooState`. Its `update` takes `param_specs` as another
      argument, in the place of those of `sharding`. A gradient that is None where the state
      has a parameter is missing: its blocks are skipped (update 0) while the step count advances.
      Elsewhere (a function in a module, a frozen array) the update is None too.

    Raises:
      ValueError: a hyperparameter out of range, contradictory options, leaves that are not real
        floating-point arrays, an axis that the mesh does not have, a state of another mesh.

    References:
      Shi et al., `A Distributed Data-Parallel PyTorch Implementation of the Distributed Shampoo
      Optimizer for Training Neural Networks At-Scale <https://arxiv.org/abs/2309.06497>`_, 2023.
    """
    config = make_config(
        b1=b1,
        b2=b2,
        b3=b3,
        eps=eps,
        momentum=momentum,
        weight_decay=weight_decay,
        grafting=grafting,
        blocks=blocks,
        refresh=refresh,
        root=root,
    )
    if not isinstance(sharding, Sharding):
        raise ValueError(f"sharding: expected a shampoo_jax.Sharding, found {sharding!r}")

    def init(params: Any) -> Any:
        _check_leaves(params)
        devices = distribution.resolve(sharding.mesh, sharding.mesh_axes)
        return _init_state(params, config, dimension_numbers, devices)

    def update(
        updates: Any, state: Any, params: Any = None, *, param_specs: Any = None, **extra_args: Any
    ) -> Any:
        del extra_args
        own = align(updates, params, record.paths(pool.record for pool in _pools(state)))
        weights = None
        if config.uses_decay:
            if params is None:
                raise ValueError("params: expected the parameters, which decay, found None")
            weights = masked_weights(own, params, mask)
        now = config.at(state.count)
        inside = weights if config.uses_momentum else None
        devices = distribution.resolve(sharding.mesh, sharding.mesh_axes)
        plan = _plan(own.gradients, own.names, config, dimension_numbers, devices=devices.count)
        _check_state(state, plan, config, devices, own.paths)
        specs = sharding.param_specs if param_specs is None else param_specs
        specs = None if specs is None else own.specs(specs)
        directions, pools = sharded_step(
            own.gradients, inside, state, plan, own.present, now, devices, specs, sharding
        )
        if weights is not None and not config.uses_momentum:
            directions = [
                d + jnp.asarray(now.weight_decay, d.dtype) * w if here else d
                for d, w, here in zip(directions, weights, own.present)
            ]
        directions = [d.astype(t) for d, t in zip(directions, own.dtypes)]
        count: Any = optax.safe_increment(state.count)
        return own.tree(directions), ShampooState(count, pools)

    return optax.GradientTransformationExtraArgs(init, update)


def _check_leaves(params) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = jnp.result_type(leaf) if isinstance(leaf, float) else getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"params{jax.tree_util.keystr(path)}: expected a real floating-point array, "
                f"found {dtype or type(leaf)}"
            )


def _plan(leaves, names, config: ShampooConfig, rule: dims.Rule | None, *, devices: int) -> Plan:
    shapes = tuple(tuple(x.shape) for x in leaves)
    roles = tuple(dims.resolve(rule, name, leaf) for name, leaf in zip(names, leaves))
    return make_plan(shapes, config.blocks, roles, devices=devices)


def _init_state(
    params: optax.Params,
    config: ShampooConfig,
    rule: dims.Rule | None,
    devices: distribution.Devices,
) -> ShampooState:
    """Return the zero state of arrays or ShapeDtypeStructs, placed on the devices."""
    leaves = [jnp.asarray(x) if isinstance(x, float) else x for x in jax.tree.leaves(params)]
    plan = _plan(leaves, record.leaf_names(params), config, rule, devices=devices.count)
    inside = devices.mesh is None and devices.count > 1
    pools = init_pools(
        plan,
        config,
        devices=devices.count,
        dtype=block_dtype([x.dtype for x in leaves]),
        paths=record.leaf_paths(params),
    )
    if inside:  # a caller's shard_map holds local rows
        pools = jax.tree.map(lambda x: x[: x.shape[0] // devices.count] if x.ndim else x, pools)
    specs = distribution.pool_specs(pools, devices.axes)
    pools = jax.tree.map(lambda x, s: distribution.constrain(x, s, devices), pools, specs)
    count = distribution.constrain(jnp.zeros((), jnp.int32), P(), devices)
    return ShampooState(count, pools)


def _pools(state: ShampooState) -> tuple[PoolState, ...]:
    return state.pools if isinstance(state.pools, tuple) else ()


def _check_state(state: ShampooState, plan: Plan, config, devices, paths) -> None:
    """Refuse a state of other options, other parameters or another mesh."""
    pools = _pools(state)
    record.check([pool.record for pool in pools], records(plan, config, paths))
    share = devices.count if devices.mesh is None else 1
    expected = [pool.rows(devices.count) // share for pool in plan.pools]
    found = [pool.last_refresh.shape[0] for pool in pools]
    if expected != found:
        raise ValueError(
            f"state: expected pools of {expected} rows for {devices.count} device(s), "
            f"found {found}: init and update must see the same mesh"
        )
