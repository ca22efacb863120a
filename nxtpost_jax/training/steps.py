"""The step of the built-in loop: jitted, donated, compiled once for a shape of batch."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from nxtpost_jax.arrays import Array
from nxtpost_jax.training import averages
from nxtpost_jax.training.averages import Average
from nxtpost_jax.training.finite import check_losses
from nxtpost_jax.training.layouts import AXIS, Dealt, automatic
from nxtpost_jax.training.task import Task, TowerLoss

_LOOK = 16  # steps between two looks at the losses, which wait for the device
_CONSTANT = 2**25  # bytes of a loss's arrays that may be part of its program
_IN_FLIGHT = 2  # steps that the device has in hand while the host looks


class TrainState(NamedTuple):
    """Hold what a step reads and gives.

    Attributes:
      params: of the model.
      opt_state: the optimizer's state.
      average: of the parameters, None where they are served as they are.
    """

    params: Any
    opt_state: optax.OptState
    average: Average | None = None

    @property
    def served(self) -> Any:
        """Give the parameters that are validated and served."""
        return self.params if self.average is None else self.average.params


def init(
    task: Task,
    tx: optax.GradientTransformation,
    mesh: Mesh | None = None,
    *,
    average: float = 0.0,
) -> TrainState:
    """Draw or take the parameters to begin with, as copies, which steps may donate.

    The optimizer's state is for the mesh, by which Shampoo cuts it. `average` is the share of
    `averages.begun`, 0 for no average.
    """
    params = copied(task.init(task.init_key))
    begun = averages.begun(params, share=average) if average else None
    with contextlib.nullcontext() if mesh is None else jax.set_mesh(automatic(mesh)):
        return TrainState(params, _init_state(tx, params), begun)


def copied(tree: Any) -> Any:
    """Copy arrays on the device."""
    return jax.tree.map(jnp.copy, tree)


@functools.partial(jax.jit, static_argnums=0)
def _init_state(tx, params):
    return tx.init(params)


def _step(
    loss: TowerLoss,
    tx: optax.GradientTransformation,
    state: TrainState,
    batch: Mapping[str, Array],
    key: jax.Array,
    *,
    specs: Any = None,
) -> tuple[TrainState, jax.Array]:
    # An optimizer that wants to know how parameters are dealt, Shampoo, is told.
    told = {} if specs is None else {"param_specs": specs}
    update_of = optax.with_extra_args_support(tx).update
    gradient = jax.value_and_grad(loss, has_aux=True)
    (value, _), grads = gradient(state.params, batch, key)
    take = jnp.isfinite(value) & jnp.isfinite(_squared_norm(grads))

    def update():
        updates, opt_state = update_of(grads, state.opt_state, state.params, **told)
        params = optax.apply_updates(state.params, updates)
        average = None if state.average is None else averages.moved(state.average, params)
        return TrainState(params, opt_state, average)

    # A gradient that is not finite would spoil the parameters and the moments for good. The branch
    # also keeps the update apart from the gradient: fused with it, it would be rounded otherwise.
    return jax.lax.cond(take, update, lambda: state), value


def _squared_norm(grads: Any) -> jax.Array:
    """Give the sum of squares in float32 at least: infinite from a norm of 1.8e19 on."""
    wide = [g.astype(jnp.promote_types(g.dtype, jnp.float32)) for g in jax.tree.leaves(grads)]
    return jnp.asarray(sum(jnp.sum(jnp.square(g)) for g in wide))


class Placed(NamedTuple):
    """Hold a task's step where it runs.

    Attributes:
      step: from (state, batch, key), the state donated, to the next state and the loss f32[].
      place: puts a state, or parameters, where they lie on the devices.
      deal: puts a batch there, its rows dealt over them.
    """

    step: Callable[[TrainState, Mapping[str, Array], jax.Array], tuple[TrainState, jax.Array]]
    place: Callable[[Any], Any]
    deal: Callable[[Mapping[str, np.ndarray]], Mapping[str, Array]]


def placed(task: Task, tx: optax.GradientTransformation, over: Dealt | None = None) -> Placed:
    """Put a task on one device, or on all of a mesh, its batches' rows dealt over "data".

    On one device content is a constant of the program up to 32 MB, as it is in a loop that closes
    over `task.loss`, and the losses have the same bits; more would be held twice.

    Raises:
      ValueError: the mesh does not divide the rows of a batch.
    """
    if over is None:
        small = sum(part.nbytes for part in jax.tree.leaves(task.loss)) <= _CONSTANT
        step = _step_of(task.loss, tx) if small else functools.partial(_step_by, task.loss, tx)
        return Placed(step, lambda tree: tree, lambda batch: batch)
    mesh, devices = over.mesh, over.mesh.shape[AXIS]
    for rows, _ in task.batch_shapes:
        if rows % devices:
            raise ValueError(
                f"batch_size: expected a multiple of the {devices} devices of the mesh, "
                f"found {rows} rows"
            )
    loss = jax.device_put(task.loss, over.everywhere)
    jitted = jax.jit(
        functools.partial(_step, specs=over.specs),
        static_argnums=1,
        donate_argnums=2,
        out_shardings=(over.state, over.everywhere),
    )

    def step(state, batch, key):
        with jax.set_mesh(mesh):
            return jitted(loss, tx, state, batch, key)

    def place(tree):
        whole_state = isinstance(tree, TrainState)
        return jax.device_put(tree, over.state if whole_state else over.state.params)

    return Placed(step, place, lambda batch: jax.device_put(dict(batch), over.by_rows))


_step_by = jax.jit(_step, static_argnums=1, donate_argnums=2)


@functools.lru_cache(maxsize=4)
def _step_of(loss: TowerLoss, tx: optax.GradientTransformation):
    """Jit a step whose loss is constant; another fit of equal arrays takes the same program."""
    return jax.jit(functools.partial(_step, loss, tx), donate_argnums=0)


def taken(
    task: Task,
    state: TrainState,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    where: Placed,
    first: int = 0,
) -> Iterator[tuple[TrainState, list[float]]]:
    """Step through batches: the state after each, and the losses known by then.

    The losses are looked at now and then only, so that the host runs ahead and makes batches; all
    are known in the end, when the last state comes once more.

    Args:
      task: what is trained.
      state: parameters and the optimizer's state, donated.
      batches: of the task.
      where: see `placed`.
      first: the number of the first step, which gives its key.

    Raises:
      FloatingPointError: a loss is NaN or infinite.
    """
    waiting: list[jax.Array] = []
    known: list[float] = []

    def look(leave: int) -> None:
        ready = len(waiting) - leave
        if ready > 0:
            known.extend(float(value) for value in jax.device_get(waiting[:ready]))
            del waiting[:ready]
            check_losses(np.array(known))

    for i, batch in enumerate(batches):
        key = task.step_key(first + i)
        state, value = where.step(state, where.deal(batch), key)
        waiting.append(value)
        if len(waiting) > _LOOK:
            look(_IN_FLIGHT)
        yield state, known
    look(0)
    yield state, known
