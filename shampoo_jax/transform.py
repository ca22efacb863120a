"""`scale_by_shampoo`: Distributed Shampoo as an optax transformation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.lax import PrecisionLike
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike, DTypeLike

from shampoo_jax import distribution, record, roots
from shampoo_jax import grafting as grafting_lib
from shampoo_jax.alignment import align, masked_weights
from shampoo_jax.config import Preconditioner, ShampooConfig, integer, optional_integer
from shampoo_jax.injection import injectable
from shampoo_jax.plan import Plan, PlanConfig, Shape, default_exponents, make_plan
from shampoo_jax.roots import Refreshed
from shampoo_jax.sharded_step import sharded_step
from shampoo_jax.state import PoolState, ShampooState, block_dtype, init_pools, records


@injectable
def scale_by_shampoo(
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
    r"""Precondition gradients with Distributed Shampoo.

    A parameter is merged and split into blocks; a block of order o with gradient G keeps one
    factor per dim, L_k <- b2 L_k + (1 - b2) G G^T (G unfolded along k), and its direction is the
    filtered gradient F multiplied along every dim by (L_k / (1 - b2^t) + eps I)^(-1/(2 o)), given
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
      relative_eps: `eps` is a multiple of the factor's largest eigenvalue. Absolute
        otherwise, as in the paper.
      grafting: see `shampoo_jax.grafting`; "auto" = Adam with decay `b2` (AdaGrad where `b2` is 1),
        or none for the eigenvalue-corrected form, which needs none; None = no grafting.
      precondition_frequency: steps between two refreshes of a root. A run of fewer steps than this
        sees the grafting method and nothing else.
      start_preconditioning_step: first step that may refresh; None = `precondition_frequency`.
        Before its first refresh a block takes the grafting direction.
      statistics_frequency: steps between two updates of the factors.
      stagger: refresh a part of the blocks at every step rather than all at once: the same work
        without spikes. False = the paper.
      preconditioner: `root_inverse`: roots of the factors; `eigenvalue_corrected`: their
        eigenvectors, and a second moment in that basis (EShampoo); `soap`: the same, but a step
        takes the basis of the step before, refreshed after its use (arXiv 2409.11321).
      eigenvalue_exponent: power of that second moment, one number or one per block order.
      root: function of `shampoo_jax.roots`; default `eigh_root` or `eigh_basis`.
      max_residual: a refresh with a larger residual, or one that is not finite, is refused: the
        previous root stays and the failure is counted.
      bias_correction: correct F and the factors for starting at zero.
      momentum: heavy-ball coefficient, applied to the direction after the decay.
      dampening: 1 - the weight of a new direction in the momentum.
      nesterov: look ahead.
      weight_decay: decoupled, added to the direction; a number or an optax schedule.
      mask: tree of bools, a prefix of that of the parameters, or a function of them giving one:
        where decay applies.
      block_size: largest side of a block; None = never split. It is part of the algorithm: the same
        on all devices, and a checkpoint holds it.
      target_dimensionality: small adjacent dims are merged while more dims are left than this
        (and the product stays <= `block_size`); None = keep shapes.
      exponents: function from a merged shape to an inverse exponent per dim, 0 = that dim has no
        factor. None = `default_exponents`: 1 / (2 order), and dims above 8,192 are dropped:
        embedding tables become one-sided.
      max_pools: cap on the number of pools: smaller compiles faster and pads more.
      round_to: sides of blocks are padded to a multiple of it.
      factor_dtype: dtype of factors and roots' computation; default that of the statistics.
      precision: of the products, as in `jax.lax.dot`.
      gather_dtype: dtype in which directions are gathered, e.g. bfloat16; default exact.
      mesh: devices that share the blocks; default the mesh of the context (`jax.set_mesh`), or
        the axes of the shard_map that the caller is inside; without any, one device.
      mesh_axes: axes of the mesh over which the blocks are dealt; default all.
      param_specs: tree of PartitionSpecs of the gradients, for sharded parameters under Auto
        axes: they are then gathered in one collective, and updates leave with the same specs.
        Under Explicit axes the types tell.

    Returns:
      An optax transformation with state `ShampooState`. A gradient that is None where the state
      has a parameter is missing: its blocks are skipped (update 0) while the step count advances.
      Elsewhere (a function in a module, a frozen array) the update is None too.

    Raises:
      ValueError: a hyperparameter out of range, contradictory options, leaves that are not real
        floating-point arrays, an axis that the mesh does not have, a state of another mesh.

    References:
      Shi et al., `A Distributed Data-Parallel PyTorch Implementation of the Distributed Shampoo
      Optimizer for Training Neural Networks At-Scale <https://arxiv.org/abs/2309.06497>`_, 2023.
    """
    corrected = preconditioner != "root_inverse"
    config = ShampooConfig(
        b1=b1,
        b2=b2,
        b3=b3,
        eps=eps,
        relative_eps=relative_eps,
        preconditioner=preconditioner,
        eigenvalue_exponent=eigenvalue_exponent,
        root=root or (roots.eigh_basis if corrected else roots.eigh_root),
        max_residual=max_residual,
        grafting=grafting_lib.as_grafting(grafting),
        precondition_frequency=integer("precondition_frequency", precondition_frequency),
        start_preconditioning_step=optional_integer(
            "start_preconditioning_step", start_preconditioning_step
        ),
        statistics_frequency=integer("statistics_frequency", statistics_frequency),
        stagger=stagger,
        bias_correction=bias_correction,
        momentum=momentum,
        dampening=dampening,
        nesterov=nesterov,
        weight_decay=weight_decay,
        factor_dtype=factor_dtype,
        precision=precision,
        plan=PlanConfig(
            block_size=optional_integer("block_size", block_size),
            target_dimensionality=optional_integer("target_dimensionality", target_dimensionality),
            exponents=exponents or default_exponents,
            max_pools=integer("max_pools", max_pools),
            round_to=integer("round_to", round_to),
        ),
    )

    def init(params: Any) -> Any:
        _check_leaves(params)
        return init_state(params, config, distribution.resolve(mesh, mesh_axes))

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        del extra_args
        own = align(updates, params, record.paths(pool.record for pool in _pools(state)))
        weights = None
        if config.uses_decay:
            if params is None:
                raise ValueError("params: expected the parameters, which decay, found None")
            weights = masked_weights(own, params, mask)
        now = config.at(state.count)
        inside = weights if config.uses_momentum else None
        devices = distribution.resolve(mesh, mesh_axes)
        plan = _plan(own.gradients, config)
        _check_state(state, plan, config, devices, own.paths)
        specs = None if param_specs is None else own.of(param_specs)
        directions, pools = sharded_step(
            own.gradients, inside, state, plan, own.present, now, devices, specs, gather_dtype
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
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"params{jax.tree_util.keystr(path)}: expected a real floating-point array, "
                f"found {dtype or type(leaf)}"
            )


def _plan(leaves, config: ShampooConfig) -> Plan:
    return make_plan(tuple(tuple(x.shape) for x in leaves), config.plan)


def init_state(
    params: optax.Params, config: ShampooConfig, devices: distribution.Devices
) -> ShampooState:
    """Return the zero state of arrays or ShapeDtypeStructs, placed on the devices."""
    leaves = jax.tree.leaves(params)
    plan = _plan(leaves, config)
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
