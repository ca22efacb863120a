"""Train an optimizer from a point and a seed, as a stage of a run; try points, and choose one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from experiments.harness.run_folder import Run
from experiments.loop.train_step import Params
from experiments.loop.training import train
from experiments.studies.optimizers.factories import FACTORIES, Factory, make_optimizer
from experiments.studies.optimizers.spaces import Point, beyond, cube_points, is_on_edge, point_of
from experiments.studies.optimizers.targets import or_chance
from experiments.studies.optimizers.trial_log import TrialLog
from experiments.tasks.learning_task import LearningTask

MOST_EXTENSIONS = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A finished run: its last parameters, and its validation figures by evaluation."""

    params: Params
    history: Sequence[Mapping[str, float]]

    @property
    def steps(self) -> list[int]:
        """Of the evaluations."""
        return [int(record["step"]) for record in self.history]

    def curve(self, figure: str) -> list[float]:
        """Return a validation figure by evaluation, such as "loss"."""
        return [record[f"validation_{figure}"] for record in self.history]

    def end(self, figure: str) -> float:
        """Return a validation figure of the last evaluation."""
        return self.curve(figure)[-1]


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """What all runs of a study share.

    Attributes:
      run: the open run folder.
      task: what is learned.
      mesh: of the devices.
      steps: of a whole run.
      evaluations: at equal distances, the last at the end.
      log: of trials, which are not trained again where it knows what they ended at.
    """

    run: Run
    task: LearningTask
    mesh: Mesh
    steps: int
    evaluations: int
    log: TrialLog

    def train(
        self, stage: str, *, factory: Factory, point: Point, seed: int, length: float = 1.0
    ) -> Trained:
        """Train once; a `length` below 1 has a schedule of so much shorter, and as many evaluations
        fewer."""
        every = self.steps // self.evaluations
        evaluations = max(1, round(length * self.evaluations))
        steps = evaluations * every
        task = self.task

        def evaluate(params: Params) -> dict[str, float]:
            return {f"validation_{name}": value for name, value in task.validate(params).items()}

        result = train(
            self.run,
            stage=stage,
            init_params=task.init_params,
            loss=task.loss,
            tx=make_optimizer(factory, point, steps=steps),
            batches=lambda epoch: task.batches(epoch * every, every, seed),
            epochs=evaluations,
            steps_per_epoch=every,
            seed=seed,
            mesh=self.mesh,
            evaluate=evaluate,
            checkpoint_every=steps + 1,  # a killed run starts again
            most_skipped=None,  # one that diverges is a result too
        )
        return Trained(result.params, result.history)


@dataclasses.dataclass(frozen=True, eq=False)
class Trials:
    """An optimizer's trials: points of the cube, and what each ended at on validation data.

    Attributes:
      name: of the optimizer.
      coordinates: float64 [n, 5].
      losses: at the end; chance where a trial diverged.
      first: how many of them are those that all optimizers share.
      again: of the finalists, by index, what they ended at from another seed; none where the least
        loss of one seed decides.
    """

    name: str
    coordinates: np.ndarray
    losses: Sequence[float]
    first: int
    again: Mapping[int, float] = dataclasses.field(default_factory=dict)

    @property
    def best(self) -> int:
        """Index of the trial with the least loss, of finalists with the least mean of both."""
        if not self.again:
            return int(np.argmin(self.losses))
        return min(self.again, key=lambda i: self.losses[i] + self.again[i])

    @property
    def points(self) -> list[Point]:
        """The trials' hyperparameters."""
        return [point_of(self.name, row) for row in self.coordinates]

    @property
    def chosen(self) -> Point:
        """The best trial's hyperparameters."""
        return self.points[self.best]

    @property
    def is_on_edge(self) -> bool:
        """Whether the best trial has the largest or the smallest rate of all."""
        return is_on_edge(self.coordinates, self.best)


def try_points(
    trainer: Trainer,
    name: str,
    coordinates: np.ndarray,
    *,
    seed: int,
    first: int = 0,
    stage: str = "trial",
) -> list[float]:
    """Train an optimizer at points of the cube and return the losses; `first` counts stages on."""
    losses, log = [], trainer.log
    for i, row in enumerate(coordinates, start=first):
        loss = log.loss(name, row, seed=seed)
        if loss is None:
            how = {"factory": FACTORIES[name], "point": point_of(name, row), "seed": seed}
            trained = trainer.train(f"{name}-{stage}-{i}", **how)
            loss = or_chance(trained.end("loss"), trainer.task.chance)
            log.add(name, row, seed=seed, loss=loss)
        losses.append(loss)
    return losses


def search(
    trainer: Trainer, names: Sequence[str], *, trials: int, seed: int, finalists: int = 1
) -> dict[str, Trials]:
    """Try every optimizer at the same points, and all at more rates while one's best is outermost.

    An extension gives every optimizer a quarter as many trials again beyond the end of its range
    that is nearer to its best, `MOST_EXTENSIONS` times at most. Where there are several finalists,
    so many of the best are trained again from the next seed, which then decides too: the least of
    many losses of one seed each is a lucky one.
    """
    cube = cube_points(trials)
    found = {
        name: Trials(name, cube, try_points(trainer, name, cube, seed=seed), trials)
        for name in names
    }
    for _ in range(MOST_EXTENSIONS):
        if not any(own.is_on_edge for own in found.values()):
            break
        found = {
            name: _extended(trainer, own, count=max(1, trials // 4), seed=seed)
            for name, own in found.items()
        }
    if finalists == 1:
        return found
    return {
        name: _again(trainer, own, count=finalists, seed=seed + 1) for name, own in found.items()
    }


def _again(trainer: Trainer, own: Trials, *, count: int, seed: int) -> Trials:
    best = np.argsort(own.losses, kind="stable")[:count]
    losses = try_points(trainer, own.name, own.coordinates[best], seed=seed, stage="finalist")
    return dataclasses.replace(own, again=dict(zip(best.tolist(), losses)))


def _extended(trainer: Trainer, own: Trials, *, count: int, seed: int) -> Trials:
    more = beyond(own.coordinates, own.best, count=count)
    losses = try_points(trainer, own.name, more, seed=seed, first=len(own.losses))
    return dataclasses.replace(
        own,
        coordinates=np.concatenate([own.coordinates, more]),
        losses=[*own.losses, *losses],
    )
