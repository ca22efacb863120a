"""The training loop: shapes -> shardings -> init -> donated step -> evaluate, save, resume.

One call of `train` is one stage of a run; a run may have several, one after the other. What a step
computes depends on the seed and the step alone: batches come from `batches(epoch)`, the step's key
is the seed's key folded with the step, and neither knows the mesh. A resumed run therefore ends
with the same bits as one that was never stopped.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.harness.errors import bad_input
from experiments.harness.interrupts import Interrupts
from experiments.harness.processes import largest_of_all
from experiments.harness.progress import show_progress
from experiments.harness.run_folder import Run
from experiments.loop.checkpoints import Checkpoints
from experiments.loop.parameter_average import Weight
from experiments.loop.restoring import laid_out_before, restore
from experiments.loop.schedule import Progress, Schedule
from experiments.loop.sharding import Rule, readable, rules_of, shard_batch
from experiments.loop.train_step import (
    CompiledStep,
    InitParams,
    Loss,
    Params,
    TrainState,
    init_state,
    make_step,
    specs_of,
    state_layout,
)

Batches = Callable[[int], Iterable[Mapping[str, np.ndarray]]]
Evaluate = Callable[[Params], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The outcome of a stage.

    `params` are those of `best_epoch` where a metric selects, else the last ones, and averaged
    where there is an average; beside an average `last_params` are the last ones as they are,
    `opt_state` is the last one. `history` has one dict an epoch: epoch, step, seconds and, where
    evaluated, the validation metrics. `seconds` is training alone, without compilation
    (`compile_seconds`), evaluation and checkpoints.
    """

    params: Params
    last_params: Params | None
    opt_state: optax.OptState
    history: list[dict[str, float]]
    steps: int
    seconds: float
    compile_seconds: float
    best_epoch: int | None


def train(
    run: Run,
    *,
    stage: str,
    init_params: InitParams,
    loss: Loss,
    tx: optax.GradientTransformation,
    batches: Batches,
    epochs: int,
    steps_per_epoch: int,
    seed: int,
    mesh: Mesh,
    rules: Sequence[Rule] | None = None,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 1,
    select: str | None = None,
    select_mode: Literal["max", "min"] = "max",
    checkpoint_every: int | None = None,
    log_every: int = 10,
    batch_shapes: int = 1,
    patience: int | None = None,
    most_skipped: int | None = 10,
    average: Weight | None = None,
) -> TrainResult:
    """Train one stage, or finish it from where an earlier session stopped.

    Args:
        run: the open run folder; metrics and checkpoints go there under `stage`.
        stage: name of the stage, unique within the run.
        init_params: maps a key to the parameters; traced, then computed on the mesh.
        loss: maps (params, batch, key) to a scalar, the mean over the batch, and a dict of scalars.
        tx: the optimizer.
        batches: maps an epoch (from 0) to its batches, dicts of arrays whose first dimension is
            dealt over the mesh axis "data".
        epochs: number of epochs; 0 returns the initial parameters.
        steps_per_epoch: number of batches an epoch.
        seed: gives initial parameters and step keys.
        mesh: a mesh with an axis "data"; it is the context mesh while this runs.
        rules: path rules of the parameters (`experiments.loop.sharding`); by default those of the
            run's layout.
        evaluate: maps parameters to validation metrics.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        select: the validation metric whose best epoch's parameters are returned. The first of
            equal values wins; NaN never does.
        select_mode: whether the best value is the largest or the smallest.
        checkpoint_every: steps between checkpoints; by default one at the end of each epoch. An
            epoch that becomes the best and the last one are saved in any case.
        log_every: steps between lines of metrics.jsonl.
        batch_shapes: how many different shapes the batches may have at most; the step is compiled
            once for each.
        patience: evaluations in a row without a new best after which the stage ends early; never
            by default.
        most_skipped: a step whose loss or gradient is not finite is skipped; after so many in a
            row the stage ends, with the state before them saved. None for never.
        average: what is evaluated and returned is an average of all steps' parameters, by these
            weights; without, the parameters as they are.

    Raises:
        InputError: a checkpoint of another config, no checkpoint that is whole, a batch that the
            devices do not divide, a disk that takes no checkpoint, or `most_skipped` steps skipped.
        ValueError: `batches` gives too few batches or too many shapes, or `select` names no
            evaluated metric.
        SystemExit: 128 + signal after Ctrl-C or SIGTERM, once a checkpoint is saved.
    """
    schedule = Schedule(
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        evaluate_every=evaluate_every,
        select=select,
        select_mode=select_mode,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        patience=patience,
        most_skipped=most_skipped,
    )
    if select is not None and evaluate is None:
        raise ValueError(f"evaluate: expected a function because {select=}, found None")
    if patience is not None and select is None:
        raise ValueError(f"select: expected a metric because {patience=}, found None")
    folder = run.checkpoint_folder(stage)
    with (
        Interrupts() as interrupts,
        Checkpoints(folder, config=run.config, mesh=mesh) as checkpoints,
    ):
        record, before = checkpoints.read_record(), None
        progress = Progress(**(record["progress"] if record else {}))
        if record is not None:
            before = laid_out_before(init_params, tx, record=record, mesh=mesh)
        with jax.set_mesh(mesh):
            run.truncate_metrics(stage, after_step=progress.step)
            rules = rules_of(run.layout) if rules is None else rules
            averaged = average is not None
            layout = state_layout(init_params, tx, mesh=mesh, rules=rules, averaged=averaged)
            if record is None:
                state = init_state(init_params, tx, layout=layout, seed=seed)
            else:
                how = {"layout": layout, "progress": progress, "before": before}
                state = restore(checkpoints, tx, **how)
            loop = _Loop(run, stage, schedule, mesh, checkpoints, interrupts, progress)
            if not progress.finished:
                how = {"most_skipped": most_skipped, "param_specs": specs_of(layout)}
                program = make_step(loss, tx, seed=seed, average=average, **how)
                step = CompiledStep(program, mesh=mesh, most=batch_shapes)
                state = loop.train(state, step, batches, evaluate)
            params = state.served
            if progress.best_step not in (None, progress.step):
                name = "average" if averaged else "params"
                how = {"like": layout.served, "name": name}
                params = checkpoints.restore_params(progress.best_step, **how)
            params = readable(params, mesh)
            last = readable(state.params, mesh) if averaged else None
    return TrainResult(
        params=params,
        last_params=last,
        opt_state=state.opt_state,
        history=progress.history,
        steps=progress.step,
        seconds=progress.seconds,
        compile_seconds=progress.compile_seconds,
        best_epoch=progress.best_epoch,
    )


@dataclasses.dataclass
class _Loop:
    """One session of a stage: takes steps, keeps the clock, logs and saves."""

    run: Run
    stage: str
    schedule: Schedule
    mesh: Mesh
    checkpoints: Checkpoints
    interrupts: Interrupts
    progress: Progress
    _in_flight: tuple[int, dict[str, jax.Array]] | None = None  # epoch, scalars of the last step
    _clock_started: float = 0.0
    _skips_on: bool = False  # the last logged step was one skipped too many

    def train(
        self, state: TrainState, step: CompiledStep, batches: Batches, evaluate: Evaluate | None
    ) -> TrainState:
        """Take the epochs that are left."""
        epochs = self.schedule.epochs
        if epochs == 0:
            self.progress.finished = True
            self._save(state)
            return state
        total = epochs * self.schedule.steps_per_epoch
        with show_progress(self.stage, total=total, completed=self.progress.step) as show:
            for epoch in range(len(self.progress.history), epochs):
                state = self._train_epoch(epoch, state, step, batches, show=show)
                self._finish_epoch(epoch, state, evaluate)
                show(self.progress.step, _describe(self.progress.history[-1]))
                self._stop_if_asked(state)
                if self.progress.finished:
                    break
        if self.progress.skipped:
            print(
                f"{self.stage}: {self.progress.skipped} of {self.progress.step} steps skipped, "
                "their loss or gradient was not finite",
                file=sys.stderr,
            )
        return state

    def _train_epoch(
        self,
        epoch: int,
        state: TrainState,
        step: CompiledStep,
        batches: Batches,
        *,
        show: Callable[[int, str], None],
    ) -> TrainState:
        """Take the steps of an epoch that are left, saving where due."""
        progress, size = self.progress, self.schedule.steps_per_epoch
        taken = progress.step - epoch * size
        self._clock_started = time.monotonic()
        for batch in itertools.islice(batches(epoch), taken, size):
            batch = shard_batch(batch, self.mesh)
            if not step.knows(batch):
                self._stop_clock()
                show(progress.step, "compiling")
                last_words = f"stopped while compiling; continue with --resume {self.run.folder}"
                with self.interrupts.leaving_at_once(last_words):
                    step.learn(state, batch)
                progress.compile_seconds = step.compile_seconds
                self._clock_started = time.monotonic()
            exit_code = self._ask_to_stop()
            state, scalars = step(state, batch)
            self._wait_for_last_step()  # with this one queued, so that the device never idles
            progress.step += 1
            self._in_flight = (epoch, scalars)
            show(progress.step, "")
            if self._skips_on:
                self._end_if_skipping(state)
            inside_epoch = progress.step < (epoch + 1) * size
            if inside_epoch and (exit_code() or self._save_is_due()):
                self._stop_clock()
                self._end_if_skipping(state)
                self._save(state)
                self._stop_if_asked(state)
                self._clock_started = time.monotonic()
        self._stop_clock()
        self._end_if_skipping(state)
        if progress.step != (epoch + 1) * size:
            found = progress.step - epoch * size
            raise ValueError(
                f"{self.stage}: expected {size} batches from batches({epoch}), found {found}"
            )
        return state

    def _finish_epoch(self, epoch: int, state: TrainState, evaluate: Evaluate | None) -> None:
        """Evaluate, note whether this is the best epoch, and save."""
        progress, schedule = self.progress, self.schedule
        record = {"epoch": epoch, "step": progress.step, "seconds": round(progress.seconds, 4)}
        last = epoch + 1 == schedule.epochs
        best = False
        if evaluate is not None and (last or (epoch + 1) % schedule.evaluate_every == 0):
            metrics = {name: float(value) for name, value in evaluate(state.served).items()}
            record |= metrics
            self.run.log(self.stage, **record)
            best = self._is_best(epoch, metrics)
        progress.history.append(record)
        progress.finished = last or self._is_out_of_patience()
        if progress.finished or best or self._save_is_due():
            self._save(state)

    def _is_best(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        if self.schedule.select is None:
            return False
        score = self.schedule.score(metrics)
        if not score > self.progress.best_score:  # false for NaN too
            return False
        self.progress.best_score = score
        self.progress.best_epoch, self.progress.best_step = epoch, self.progress.step
        return True

    def _is_out_of_patience(self) -> bool:
        if self.schedule.patience is None:
            return False
        best = -1 if self.progress.best_epoch is None else self.progress.best_epoch
        since = [r for r in self.progress.history[best + 1 :] if self.schedule.select in r]
        return len(since) >= self.schedule.patience

    def _wait_for_last_step(self) -> None:
        if self._in_flight is None:
            return
        epoch, scalars = self._in_flight
        jax.block_until_ready(scalars)
        self._in_flight = None
        step = self.progress.step
        if step == 1 or step % self.schedule.log_every == 0:
            seconds = self.progress.seconds + time.monotonic() - self._clock_started
            values = {"epoch": epoch, "seconds": round(seconds, 4), **jax.device_get(scalars)}
            values["skipped"], in_a_row = map(int, values["skipped"])
            self._skips_on = in_a_row >= (self.schedule.most_skipped or in_a_row + 1)
            self.run.log(self.stage, step, **values)

    def _stop_clock(self) -> None:
        self._wait_for_last_step()
        self.progress.seconds += time.monotonic() - self._clock_started

    def _save_is_due(self) -> bool:
        every = self.schedule.checkpoint_every or self.schedule.steps_per_epoch
        return self.progress.step - (self.checkpoints.latest_step or 0) >= every

    def _end_if_skipping(self, state: TrainState) -> None:
        """End the stage where too many steps in a row were skipped.

        The step skips on from there by itself, whatever comes: what is saved does not depend on
        when this is asked. A resumed run goes on behind the skipped steps.
        """
        progress, most = self.progress, self.schedule.most_skipped
        skipped, in_a_row = map(int, jax.device_get(state.skipped))
        if most is None or in_a_row < most:
            return
        progress.step -= in_a_row - most
        self._save(state._replace(skipped=np.array([skipped - in_a_row + most, 0])))
        raise bad_input(
            f"{self.stage}, step {progress.step}",
            expected="a finite loss and gradient",
            found=f"{most} steps in a row without; the state before them is saved; "
            "look at the batches, lower the learning rate",
        )

    def _save(self, state: TrainState) -> None:
        skipped = map(int, jax.device_get(state.skipped))
        self.progress.skipped, self.progress.skipped_in_a_row = skipped
        self.checkpoints.save(
            self.progress.step,
            params=state.params,
            opt_state=state.opt_state,
            progress=dataclasses.asdict(self.progress),
            best_step=self.progress.best_step,
            average=state.average,
        )

    def _stop_if_asked(self, state: TrainState) -> None:
        exit_code = self._ask_to_stop()()
        if exit_code is None:
            return
        if self.checkpoints.latest_step != self.progress.step:
            self._save(state)
        raise SystemExit(exit_code)

    def _ask_to_stop(self) -> Callable[[], int | None]:
        """Ask whether a signal came; where any process of several got one, all stop by it."""
        own = self.interrupts.exit_code
        if jax.process_count() == 1:
            return lambda: own
        largest = largest_of_all(own or 0, self.mesh)  # queued before the step, read behind it
        return lambda: int(largest) or None


def _describe(record: Mapping[str, float]) -> str:
    shown = {name: value for name, value in record.items() if name not in ("step", "seconds")}
    return "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
