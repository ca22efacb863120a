"""The built-in loop: epochs of steps, validations, the best epoch kept, a checkpoint per epoch."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from nxtpost_jax.training import averages, layouts, progress, steps
from nxtpost_jax.training import checkpoint as checkpoints
from nxtpost_jax.training.finite import check_arrays, check_losses
from nxtpost_jax.training.standing import Record, Standing
from nxtpost_jax.training.steps import TrainState
from nxtpost_jax.training.task import Task

Validate = Callable[[Any], dict[str, float]]
Log = Callable[[Record], None]


class Loop(Protocol):
    """Train by a task; what `Recommender.fit` calls in place of the built-in loop."""

    def __call__(
        self,
        task: Task,
        *,
        tx: optax.GradientTransformation,
        epochs: int,
        validate: Validate | None,
        validate_every: int,
        select: str,
        patience: int | None,
        log: Log | None,
    ) -> tuple[Any, list[Record]]:
        """Give parameters, those that shall be served, and a record per epoch.

        Args:
          task: parameters to begin with, loss and batches.
          tx, epochs, validate_every, select, patience, log: see `Recommender.fit`.
          validate: from parameters to figures, or None.
        """
        ...


class Diverged(FloatingPointError):
    """Say that a loss, a parameter or what they give is NaN or infinite.

    Attributes:
      params: of the best validated epoch or, without validation, those that the last epoch with a
        finite first loss began with; None where there are none. `Recommender.adopt` serves by them.
    """

    params: Any = None


class Interrupted(KeyboardInterrupt):
    """Say that Ctrl-C came after an epoch was validated.

    Attributes:
      standing: what the training had come to.
    """

    def __init__(self, standing: Standing):
        super().__init__()
        self.standing = standing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Say how the built-in loop trains; fields as the arguments of `Recommender.fit`.

    Raises:
      ValueError: a number is out of range, or nothing is validated that shall be selected by.
    """

    epochs: int
    validate: Validate | None = None
    validate_every: int = 1
    select: str = "ndcg@10"
    patience: int | None = None
    average: float = 0.1
    log: Log | None = None
    progress: bool | None = None
    checkpoint: checkpoints.Checkpoint | None = None
    mesh: Mesh | None = None
    fsdp: bool = False

    def __post_init__(self):
        for name in ("epochs", "validate_every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected at least 1, found {value}")
        if not 0 <= self.average <= averages.MOST:
            expected = f"a share in [0, {averages.MOST}]"
            raise ValueError(f"average: expected {expected}, found {self.average}")
        if self.validate is None and self.patience is not None:
            raise ValueError(f"patience: expected validation beside it, found {self.patience} only")
        if self.fsdp and self.mesh is None:
            raise ValueError("fsdp: expected a mesh beside True, found none")

    def validates(self, epoch: int) -> bool:
        """Tell whether an epoch is followed by a validation; the last one always is."""
        last = epoch == self.epochs - 1
        return self.validate is not None and (last or (epoch + 1) % self.validate_every == 0)


def train(
    task: Task,
    *,
    tx: optax.GradientTransformation,
    plan: Plan,
    carry: Callable[[TrainState], TrainState] | None = None,
) -> Standing:
    """Train a task, or what a checkpoint left of it.

    Args:
      task: what is trained.
      tx: the optimizer.
      plan: see `Plan`.
      carry: replaces the state to begin with, to go on with an optimizer's state.

    Raises:
      ValueError: an option is out of range, or the checkpoint is of another call.
      Diverged: see there; the checkpoint of the epoch before is left.
      Interrupted: Ctrl-C came and there is a best epoch; before one it is a KeyboardInterrupt.
    """
    state = steps.init(task, tx, plan.mesh, average=plan.average)
    over = None if plan.mesh is None else layouts.dealt(state, plan.mesh, fsdp=plan.fsdp)
    where = steps.placed(task, tx, over)
    state = state if carry is None else carry(state)
    standing = Standing(where.place(state))
    if plan.checkpoint is not None:
        standing = plan.checkpoint.resumed(standing, place=where.place)
    size = task.steps_per_epoch
    done = len(standing.records) * size
    try:
        with progress.shown(plan.progress, total=plan.epochs * size, done=done) as show:
            while not _is_over(standing, plan):
                with _diverging(f"of epoch {len(standing.records)}", standing, plan):
                    _take_epoch(task, standing, plan=plan, where=where, show=show)
    except KeyboardInterrupt:
        if standing.best is None:
            raise
        raise Interrupted(standing) from None
    if plan.validate is None:
        with _diverging("after the last epoch", standing, plan):
            _check_next_loss(task, standing, where)
    return standing


def _is_over(standing: Standing, plan: Plan) -> bool:
    """Tell whether all epochs are taken, or the patience is used up."""
    if len(standing.records) >= plan.epochs:
        return True
    if plan.patience is None:
        return False
    best = -1 if standing.best_epoch is None else standing.best_epoch
    since = standing.records[best + 1 :]
    return len([record for record in since if plan.select in record]) >= plan.patience


def _take_epoch(task, standing: Standing, *, plan: Plan, where: steps.Placed, show) -> None:
    """Take an epoch's steps, then validate, log and save."""
    epoch, start = len(standing.records), time.perf_counter()
    state, losses = standing.state, []
    entered = steps.copied(state.served) if plan.validate is None else None
    first = epoch * task.steps_per_epoch
    try:
        taken = steps.taken(task, state, task.batches(epoch), where=where, first=first)
        for number, (state, losses) in enumerate(taken):
            standing.state = state
            show(first + number, partial(_line, epoch, plan, losses, standing.records))
    finally:
        if losses and np.isfinite(losses[0]):
            standing.finite = entered
    check_arrays("params", state.params)
    mean = float(np.array(losses, np.float32).mean())
    record: Record = {"epoch": epoch, "loss": mean, "seconds": time.perf_counter() - start}
    if plan.validates(epoch):
        assert plan.validate is not None  # else there is no epoch to validate
        figures = plan.validate(_on_one_device(state.served) if plan.mesh else state.served)
        if plan.select not in figures:
            known = ", ".join(sorted(figures))
            raise ValueError(f"select: expected one of {known}, found {plan.select!r}")
        record |= {name: value for name, value in figures.items() if name not in record}
        if figures[plan.select] > standing.best_score:  # false for NaN
            standing.best_score, standing.best_epoch = figures[plan.select], epoch
            standing.best = steps.copied(state)
    standing.records.append(record)
    if plan.checkpoint is not None:
        plan.checkpoint.save(standing)
    if plan.log is not None:
        plan.log(record)


def _on_one_device(params: Any) -> Any:
    """Bring parameters that lie on a mesh to the default device."""
    return jax.tree.map(lambda array: jnp.asarray(np.asarray(array)), params)


def _check_next_loss(task: Task, standing: Standing, where: steps.Placed) -> None:
    """Compute the loss of one step more: finite parameters may still give NaN."""
    key = task.step_key(len(standing.records) * task.steps_per_epoch)
    batch = where.deal(next(task.batches(0)))
    _, value = where.step(steps.copied(standing.state), batch, key)
    check_losses(np.array(value)[None])


def _line(epoch: int, plan: Plan, losses: list[float], records: list[Record]) -> str:
    """Describe an epoch under way."""
    parts = [f"epoch {epoch + 1}/{plan.epochs}"]
    parts += [f"loss {np.mean(losses):.4f}"] if losses else []
    figures = [record[plan.select] for record in records if plan.select in record]
    return "  ".join(parts + ([f"{plan.select} {figures[-1]:.4f}"] if figures else []))


@contextlib.contextmanager
def _diverging(place: str, standing: Standing, plan: Plan) -> Iterator[None]:
    try:
        yield
    except FloatingPointError as error:
        diverged = Diverged(f"{error} {place}; lower the learning rate")
        if plan.validate is None:
            found = standing.finite
        else:
            found = None if standing.best is None else standing.best.served
        diverged.params = _on_one_device(found) if plan.mesh else found
        raise diverged from None
