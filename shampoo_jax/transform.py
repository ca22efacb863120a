"""`scale_by_shampoo`: Distributed Shampoo as an optax transformation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from shampoo_jax import distribution, record, roots
from shampoo_jax.config import ShampooConfig
from shampoo_jax.plan import Plan, PlanConfig, Shape, default_exponents, make_plan
from shampoo_jax.sharded_step import sharded_step
from shampoo_jax.state import ShampooState, block_dtype, init_pools, records


def _default_block_size() -> int:
    """128 on CPU, where roots cost most (docs/shampoo.md); 1024 where products are cheap."""
    return 128 if jax.default_backend() == "cpu" else 1024


def plan_config(*, block_size: int | Literal["auto"] | None = "auto", **options) -> PlanConfig:
    """Build the part of the configuration that decides blocks and pools."""
    size = _default_block_size() if block_size == "auto" else block_size
    return PlanConfig(block_size=size, **options)


def scale_by_shampoo(
    *,
    b1: Any = 0.9,
    b2: Any = 0.95,
    b3: Any = None,
    eps: Any = 1e-6,
    relative_eps: bool = True,
    grafting: optax.GradientTransformation | Literal["auto"] | None = "auto",
    precondition_frequency: int = 10,
    start_preconditioning_step: int | None = None,
    statistics_frequency: int = 1,
    stagger: bool = True,
    preconditioner: Literal["root_inverse", "eigenvalue_corrected"] = "root_inverse",
    eigenvalue_exponent: float | Mapping[int, float] = 0.5,
    root: Callable[..., roots.Refreshed] | None = None,
    max_residual: float = 0.1,
    bias_correction: bool = True,
    momentum: Any = 0.0,
    dampening: Any = 0.0,
    nesterov: bool = False,
    weight_decay: Any = 0.0,
    mask: Any = None,
    block_size: int | Literal["auto"] | None = "auto",
    target_dimensionality: int | None = 1,
    exponents: Callable[[Shape], Sequence[float]] = default_exponents,
    max_pools: int = 12,
    round_to: int = 8,
    factor_dtype: Any = None,
    precision: Any = None,
    gather_dtype: Any = None,
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None = None,
    mesh_axes: Sequence[str] | None = None,
    param_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Precondition gradients with Distributed Shampoo.

    A parameter is merged and split into blocks; a block of order o with gradient G keeps one
    factor a dim, L_k <- b2 L_k + (1 - b2) G G^T (G unfolded along k), and its direction is the
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
      precondition_frequency: steps between two refreshes of a root.
      start_preconditioning_step: first step that may refresh; None = `precondition_frequency`.
        Before its first refresh a block takes the grafting direction.
      statistics_frequency: steps between two updates of the factors.
      stagger: refresh a part of the blocks at every step rather than all at once: the same work
        without spikes. False = the paper.
      preconditioner: roots of the factors, or their eigenvectors with a second moment in that
        basis (EShampoo, SOAP).
      eigenvalue_exponent: power of that second moment, one number or one a block order.
      root: function of `shampoo_jax.roots`; default `eigh_root` or `eigh_basis`.
      max_residual: a refresh with a larger residual, or one that is not finite, is refused: the
        previous root stays and the failure is counted.
      bias_correction: correct F and the factors for starting at zero.
      momentum: heavy-ball coefficient, applied to the direction after the decay.
      dampening: 1 - the weight of a new direction in the momentum.
      nesterov: look ahead.
      weight_decay: decoupled, added to the direction; a number or an optax schedule.
      mask: tree of bools, or a function of the parameters giving one: where decay applies.
      block_size: largest side of a block; None = never split; "auto" = 128 on CPU, else 1024.
      target_dimensionality: small adjacent dims are merged while more dims are left than this
        (and the product stays <= `block_size`); None = keep shapes.
      exponents: function from a merged shape to an inverse exponent a dim, 0 = that dim has no
        factor. The default is 1 / (2 order) and drops dims above 8,192: embedding tables become
        one-sided.
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
      An optax transformation with state `ShampooState`. A gradient that is None where the
      parameter is not is missing: its blocks are skipped (update 0) while the step count advances.

    Raises:
      ValueError: a hyperparameter out of range, contradictory options, leaves that are not real
        floating-point arrays, an axis that the mesh does not have, a state of another mesh.

    References:
      Shi et al., `A Distributed Data-Parallel PyTorch Implementation of the Distributed Shampoo
      Optimizer for Training Neural Networks At-Scale <https://arxiv.org/abs/2309.06497>`_, 2023.
    """
    corrected = preconditioner == "eigenvalue_corrected"
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
        grafting=grafting,
        precondition_frequency=precondition_frequency,
        start_preconditioning_step=start_preconditioning_step,
        statistics_frequency=statistics_frequency,
        stagger=stagger,
        bias_correction=bias_correction,
        momentum=momentum,
        dampening=dampening,
        nesterov=nesterov,
        weight_decay=weight_decay,
        factor_dtype=factor_dtype,
        precision=precision,
        plan=plan_config(
            block_size=block_size,
            target_dimensionality=target_dimensionality,
            exponents=exponents,
            max_pools=max_pools,
            round_to=round_to,
        ),
    )

    def init(params):
        _check_leaves(params)
        return init_state(params, config, distribution.resolve(mesh, mesh_axes))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        leaves, present, treedef = _align(updates, params)
        weights = None
        if config.uses_decay:
            if params is None:
                raise ValueError(optax.NO_PARAMS_MSG)
            weights = _masked_weights(params, mask)
        now = config.at(state.count)
        inside = weights if config.uses_momentum else None
        devices = distribution.resolve(mesh, mesh_axes)
        plan = _plan(leaves, config)
        paths = record.leaf_paths(updates if params is None else params)
        _check_state(state, plan, config, devices, paths)
        specs = None if param_specs is None else treedef.flatten_up_to(param_specs)
        directions, pools = sharded_step(
            leaves, inside, state, plan, present, now, devices, specs, gather_dtype
        )
        if weights is not None and not config.uses_momentum:
            directions = [
                d + jnp.asarray(now.weight_decay, d.dtype) * w if here else d
                for d, w, here in zip(directions, weights, present)
            ]
        dtypes = [x.dtype for x in (leaves if params is None else jax.tree.leaves(params))]
        directions = [d.astype(t) for d, t in zip(directions, dtypes)]
        count = optax.safe_increment(state.count)
        return jax.tree.unflatten(treedef, directions), ShampooState(count, pools)

    return optax.GradientTransformationExtraArgs(init, update)


def _check_leaves(params) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                "shampoo: parameters must be real floating-point arrays, got "
                f"{leaf.dtype} at params{jax.tree_util.keystr(path)}"
            )


def _plan(leaves, config: ShampooConfig) -> Plan:
    return make_plan(tuple(tuple(x.shape) for x in leaves), config.plan)


def init_state(params, config: ShampooConfig, devices: distribution.Devices) -> ShampooState:
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


def _align(updates, params) -> tuple[list, tuple[bool, ...], Any]:
    """Return gradient leaves (zeros where missing), which are present, and their tree."""
    if params is None:
        leaves, treedef = jax.tree.flatten(updates)
        return leaves, (True,) * len(leaves), treedef
    weights, treedef = jax.tree.flatten(params)
    leaves = treedef.flatten_up_to(updates)
    present = tuple(g is not None for g in leaves)
    leaves = [jnp.zeros_like(w) if g is None else g for g, w in zip(leaves, weights)]
    return leaves, present, treedef


def _masked_weights(params, mask) -> list[jax.Array]:
    """Return the parameters, zero where decay does not apply."""
    leaves, treedef = jax.tree.flatten(params)
    if mask is None:
        return leaves
    tree = mask(params) if callable(mask) else mask
    return [w if m else jnp.zeros_like(w) for w, m in zip(leaves, treedef.flatten_up_to(tree))]


def _check_state(state: ShampooState, plan: Plan, config, devices, paths) -> None:
    """Refuse a state of other options, other parameters or another mesh."""
    pools = state.pools if isinstance(state.pools, tuple) else ()
    record.check([pool.record for pool in pools], records(plan, config, paths))
    share = devices.count if devices.mesh is None else 1
    expected = [pool.rows(devices.count) // share for pool in plan.pools]
    found = [pool.last_refresh.shape[0] for pool in pools]
    if expected != found:
        raise ValueError(
            f"state: expected pools of {expected} rows for {devices.count} device(s), "
            f"found {found}: init and update must see the same mesh"
        )
