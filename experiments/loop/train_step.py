"""A train state laid out over a mesh, and the compiled step that turns it into the next.

`state_layout` finds shapes and shardings without computing anything; `init_state` computes the
state in place, each device its own part; `CompiledStep` compiles the donated step ahead of time,
so that compilation is timed apart and a batch of a shape too many is an error, not a
recompilation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import shampoo_jax
from experiments.loop.parameter_average import Weight
from experiments.loop.sharding import Rule, param_shardings, put, replicated
from shampoo_jax.state import ShampooState

Params = Any
InitParams = Callable[[jax.Array], Params]
Loss = Callable[
    [Params, Mapping[str, jax.Array], jax.Array], tuple[jax.Array, Mapping[str, jax.Array]]
]
Step = Callable[["TrainState", Mapping[str, jax.Array]], tuple["TrainState", dict[str, jax.Array]]]


class TrainState(NamedTuple):
    """What a step reads and returns."""

    params: Params
    opt_state: optax.OptState
    step: jax.Array  # int32 scalar: steps taken, skipped ones too
    skipped: jax.Array  # int32[2]: steps skipped in all, and in a row up to now
    average: Params | None = None  # of the parameters, laid out as they are; None: there is none

    @property
    def served(self) -> Params:
        """The parameters that are evaluated and returned: the average, where there is one."""
        return self.params if self.average is None else self.average


def state_layout(
    init_params: InitParams,
    tx: optax.GradientTransformation,
    *,
    mesh: Mesh,
    rules: Sequence[Rule] = (),
    averaged: bool = False,
) -> TrainState:
    """Return the state's shapes, dtypes and shardings as `jax.ShapeDtypeStruct` leaves.

    Shampoo's blocks are dealt over the devices. Of the rest of an optimizer's state, a leaf whose
    path ends in a parameter's and that has its shape lies as the parameter does; others are
    replicated. An average of the parameters, if `averaged`, lies as they do.
    """
    params = jax.eval_shape(init_params, jax.random.key(0))
    opt_state = jax.eval_shape(tx.init, params)
    params = _place(params, param_shardings(params, mesh, rules=rules))
    placed_state = _place(opt_state, _opt_state_shardings(opt_state, params=params, mesh=mesh))
    step, skipped = _place((np.int32(0), np.zeros(2, np.int32)), (replicated(mesh),) * 2)
    return TrainState(params, placed_state, step, skipped, params if averaged else None)


def _place(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def _opt_state_shardings(opt_state: Any, *, params: Any, mesh: Mesh) -> Any:
    known = jax.tree_util.tree_leaves_with_path(params)
    known.sort(key=lambda pair: len(pair[0]), reverse=True)  # the longest end of a path counts

    def beside(path: tuple, leaf: Any) -> Any:
        for own, param in known:
            if path[len(path) - len(own) :] == own and leaf.shape == param.shape:
                return param.sharding
        return replicated(mesh)

    def of(path: tuple, node: Any) -> Any:
        if isinstance(node, ShampooState):
            return shampoo_jax.state_sharding(node, mesh)
        return beside(path, node)

    is_shampoo = lambda node: isinstance(node, ShampooState)  # noqa: E731
    return jax.tree_util.tree_map_with_path(of, opt_state, is_leaf=is_shampoo)


def specs_of(layout: TrainState, *, least: float = shampoo_jax.Sharding().gather_bytes) -> Any:
    """Return the parameters' PartitionSpecs; None where less than `least` bytes are in parts.

    Shampoo, which is told them, gathers the gradients of so many bytes in rounds. Fewer are left to
    the compiler, for which a gradient that was summed over the devices is whole already: it moves
    5 MB per step instead of 7 in the Transformer over characters (8 devices, 2.5 MB of parameters).
    """
    parts = [
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(layout.params)
        if leaf.sharding.shard_shape(leaf.shape) != leaf.shape
    ]
    if sum(parts) < max(least, 1):
        return None
    return jax.tree.map(lambda leaf: leaf.sharding.spec, layout.params)


def shardings_of(layout: Any) -> Any:
    """Return the shardings of a tree of arrays or placed shapes."""
    return jax.tree.map(lambda leaf: leaf.sharding, layout)


def init_state(
    init_params: InitParams, tx: optax.GradientTransformation, *, layout: TrainState, seed: int
) -> TrainState:
    """Compute the initial state, every array at its place in the layout."""
    key = jax.random.split(jax.random.key(seed))[0]
    params = jax.jit(init_params, out_shardings=shardings_of(layout.params))(key)
    average = None if layout.average is None else jax.tree.map(jnp.copy, params)
    opt_state = init_opt_state(tx, params, layout=layout)
    return TrainState(params, opt_state, *counters(layout), average=average)


def init_opt_state(
    tx: optax.GradientTransformation, params: Params, *, layout: TrainState
) -> optax.OptState:
    """Compute the optimizer's initial state at its place in the layout."""
    return jax.jit(tx.init, out_shardings=shardings_of(layout.opt_state))(params)


def counters(layout: TrainState, *, step: int = 0, skipped: Sequence[int] = (0, 0)) -> tuple:
    """Return the numbers of a state, `step` and `skipped`, at their places in the layout."""
    placed = put(np.array(step, np.int32), layout.step.sharding)
    return placed, put(np.array(skipped, np.int32), layout.skipped.sharding)


def make_step(
    loss: Loss,
    tx: optax.GradientTransformation,
    *,
    seed: int,
    most_skipped: int | None = None,
    param_specs: Any = None,
    average: Weight | None = None,
) -> Step:
    """Make the step: gradient, update, and the scalars to log.

    The loss sees the seed's key folded with the step's number, whatever the mesh and however
    often the run was resumed. Where the loss or the gradient's norm is not finite, parameters and
    optimizer state stay as they are and the step is counted as skipped; after `most_skipped` of
    these in a row all further steps are skipped, so that the host need not look at each.

    An optimizer that wants to know how parameters are sharded, Shampoo, is told `param_specs`. An
    average takes each step's parameters in with its weight; one that is skipped has none.
    """
    sharded = {} if param_specs is None else {"param_specs": param_specs}
    update_of = optax.with_extra_args_support(tx).update

    def step(
        state: TrainState, batch: Mapping[str, jax.Array]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.split(jax.random.key(seed))[1], state.step)
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, metrics), grads = gradient(state.params, batch, key)
        take = jnp.isfinite(value) & jnp.isfinite(_squared_norm(grads))
        if most_skipped is not None:
            take &= state.skipped[1] < most_skipped

        def update():
            updates, opt_state = update_of(grads, state.opt_state, state.params, **sharded)
            params = optax.apply_updates(state.params, updates)
            if average is None:
                return params, opt_state, None
            weight = average(state.step - state.skipped[0] + 1)
            return params, opt_state, _moved(state.average, params, weight)

        def stay():
            return state.params, state.opt_state, state.average

        params, opt_state, averaged = jax.lax.cond(take, update, stay)
        skipped = jnp.stack([state.skipped[0] + ~take, jnp.where(take, 0, state.skipped[1] + 1)])
        scalars = {"loss": value, **metrics, "skipped": skipped}
        return TrainState(params, opt_state, state.step + 1, skipped, averaged), scalars

    return step


def _moved(average: Params, params: Params, weight: jax.Array) -> Params:
    return jax.tree.map(lambda a, p: (a + weight * (p - a)).astype(a.dtype), average, params)


def _squared_norm(grads: Params) -> jax.Array:
    """Return the sum of squares in float32 at least: infinite from a norm of 1.8e19 on."""
    wide = [g.astype(jnp.promote_types(g.dtype, jnp.float32)) for g in jax.tree.leaves(grads)]
    return jnp.asarray(sum(jnp.sum(jnp.square(g)) for g in wide))


def compile_step(
    step: Step, state: TrainState, *, batch: Mapping[str, jax.Array], mesh: Mesh
) -> Step:
    """Compile the step for these shapes; it donates its state and keeps the state's layout."""
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings_of(state), replicated(mesh)))
    return jitted.lower(state, batch).compile()


class CompiledStep:
    """A step compiled once for each shape of batch; it donates its state and keeps its layout."""

    def __init__(self, step: Step, *, mesh: Mesh, most: int = 1) -> None:
        """Wrap `step`; `most` is how many shapes of batches there may be."""
        self._step = step
        self._mesh = mesh
        self._most = most
        self._programs: dict[tuple, Step] = {}
        self.compile_seconds = 0.0

    def knows(self, batch: Mapping[str, jax.Array]) -> bool:
        """Say whether the step is compiled for this batch's shapes."""
        return _shapes(batch) in self._programs

    def learn(self, state: TrainState, batch: Mapping[str, jax.Array]) -> None:
        """Compile the step for this batch's shapes.

        Raises:
            ValueError: these shapes are one more than there may be.
        """
        if len(self._programs) == self._most:
            raise ValueError(
                f"batch: expected at most {self._most} different shapes, found another: "
                f"{ {name: array.shape for name, array in batch.items()} }"
            )
        start = time.monotonic()
        self._programs[_shapes(batch)] = compile_step(
            self._step, state, batch=batch, mesh=self._mesh
        )
        self.compile_seconds += time.monotonic() - start

    def __call__(
        self, state: TrainState, batch: Mapping[str, jax.Array]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Take the step."""
        return self._programs[_shapes(batch)](state, batch)


def _shapes(batch: Mapping[str, jax.Array]) -> tuple:
    return tuple((name, array.shape, array.dtype) for name, array in sorted(batch.items()))
