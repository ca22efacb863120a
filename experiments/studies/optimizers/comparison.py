"""The comparison: trials, fresh seeds at the best of them, shorter schedules, times, the test."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from experiments.harness.remembered import remember
from experiments.studies.optimizers.factories import FACTORIES
from experiments.studies.optimizers.step_times import step_milliseconds
from experiments.studies.optimizers.targets import expected_best, median_of, steps_to_target
from experiments.studies.optimizers.trials import Trained, Trainer, Trials

BASELINE = "adamw"
SHORTENED = ("adamw", "shampoo")  # what also trains on shorter schedules
LENGTHS = (0.5, 0.67)
FEW = (1, 3, 5)  # trials of "minimal tuning"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Compared:
    """What was measured.

    Attributes:
      trials: per optimizer.
      finals: per optimizer, a run per seed at the chosen point.
      shorter: of `SHORTENED`, per optimizer and length of the schedule, a run per seed.
      step_ms: per optimizer, milliseconds per step.
      tests: per optimizer, the test figures of every seed.
      seeds: of the finals.
      figure: what beside the loss is shown; "" = nothing.
      chance: loss of a model that knows nothing.
    """

    trials: Mapping[str, Trials]
    finals: Mapping[str, Sequence[Trained]]
    shorter: Mapping[str, Mapping[float, Sequence[Trained]]]
    step_ms: Mapping[str, float]
    tests: Mapping[str, Sequence[Mapping[str, float]]]
    seeds: Sequence[int]
    figure: str
    chance: float

    @property
    def names(self) -> list[str]:
        """The optimizers."""
        return list(self.trials)

    @property
    def shown(self) -> list[str]:
        """The figures of validation and test: the loss, and the task's other one."""
        return ["loss", *([self.figure] if self.figure else [])]

    @property
    def target(self) -> float:
        """The validation loss at which the baseline ends, median over its seeds."""
        return float(np.median([run.end("loss") for run in self.finals[BASELINE]]))

    def steps_to(self, name: str) -> list[float]:
        """Return each seed's steps to the target, infinity for never; the baseline's are all."""
        runs = self.finals[name]
        if name == BASELINE:
            return [float(run.steps[-1]) for run in runs]
        return [steps_to_target(r.steps, r.curve("loss"), target=self.target) for r in runs]

    def seconds_to(self, name: str) -> float | None:
        """Return the median steps to the target times the time of a step."""
        steps = median_of(self.steps_to(name))
        return None if steps is None else steps * self.step_ms[name] / 1e3

    def ends(self, name: str, figure: str) -> list[float]:
        """Return each seed's validation figure at the end."""
        return [run.end(figure) for run in self.finals[name]]

    def few_trials(self, name: str) -> dict[int, float]:
        """Return the expected best loss of few of the shared trials, and of all of them."""
        own = self.trials[name]
        counts = sorted({*(k for k in FEW if k <= own.first), own.first})
        return {k: expected_best(own.losses[: own.first], k) for k in counts}


def compare(
    trainer: Trainer,
    found: Mapping[str, Trials],
    *,
    trial_seed: int,
    seeds: Sequence[int],
    turns: int,
    before_test: Callable[[], None],
) -> Compared:
    """Measure everything; the test data are looked at once, behind all training.

    A resumed run measures the times again, and remembers what its look at the test data showed.

    Args:
      trainer: the task and its lengths.
      found: the trials of each optimizer, see `search`.
      trial_seed: of the trials; the timing's, too.
      seeds: of the runs at the chosen points, other ones.
      turns: of the timing.
      before_test: called before the test data are looked at.
    """
    finals = {name: _from_seeds(trainer, own, seeds=seeds) for name, own in found.items()}
    shorter = {
        name: {
            length: _from_seeds(trainer, found[name], seeds=seeds, length=length)
            for length in LENGTHS
        }
        for name in SHORTENED
        if name in found
    }
    points = {name: own.chosen for name, own in found.items()}
    step_ms = step_milliseconds(trainer, points, turns=turns, seed=trial_seed)
    task = trainer.task
    return Compared(
        trials=found,
        finals=finals,
        shorter=shorter,
        step_ms=step_ms,
        tests=_tested(trainer, finals, before_test),
        seeds=list(seeds),
        figure=task.figure,
        chance=task.chance,
    )


def _from_seeds(
    trainer: Trainer, trials: Trials, *, seeds: Sequence[int], length: float = 1.0
) -> list[Trained]:
    """Train at the chosen point from every seed."""
    name = trials.name if length == 1 else f"{trials.name}-{length:g}"
    how = {"factory": FACTORIES[trials.name], "point": trials.chosen, "length": length}
    return [trainer.train(f"{name}-seed-{seed}", seed=seed, **how) for seed in seeds]


def _tested(
    trainer: Trainer, finals: Mapping[str, Sequence[Trained]], before_test: Callable[[], None]
) -> dict[str, list[dict[str, float]]]:
    def look() -> dict[str, np.ndarray]:
        before_test()
        found = {}
        for name, runs in finals.items():
            tests = [trainer.task.test(run.params) for run in runs]
            for figure in tests[0]:
                found[f"{name} {figure}"] = np.array([test[figure] for test in tests])
        return found

    arrays, found = remember(trainer.run, "tests", measure=look), {}
    for name, runs in finals.items():
        own = {key.split()[1]: array for key, array in arrays.items() if key.split()[0] == name}
        found[name] = [
            {figure: float(array[number]) for figure, array in own.items()}
            for number in range(len(runs))
        ]
    return found


def figures_of(compared: Compared) -> dict[str, float | None]:
    """Flatten what was measured, by names that begin with the optimizer's.

    NAME/RATE/validation_loss and /weight_decay, ... of every trial; NAME/SEED/STEP/validation_loss
    of every evaluation; NAME/FIGURE of what the tables show.
    """
    flat: dict[str, float | None] = {}
    for name, own in compared.trials.items():
        for point, loss in zip(own.points, own.losses):
            values = {"validation_loss": loss, **point._asdict()}
            del values["rate"]
            flat |= {f"{name}/{point.rate:.4g}/{key}": value for key, value in values.items()}
        flat |= {f"{name}/chosen_{key}": value for key, value in own.chosen._asdict().items()}
        flat[f"{name}/on_edge"] = float(own.is_on_edge)
        flat |= {f"{name}/best_of_{k}": loss for k, loss in compared.few_trials(name).items()}
    for name, runs in compared.finals.items():
        steps = compared.steps_to(name)
        flat[f"{name}/steps_to_target"] = median_of(steps)
        flat[f"{name}/seconds_to_target"] = compared.seconds_to(name)
        flat[f"{name}/seeds_at_target"] = float(np.isfinite(steps).sum())
        flat[f"{name}/steps"] = float(runs[0].steps[-1])
        flat[f"{name}/step_ms"] = compared.step_ms[name]
        for figure in compared.shown:
            ends = compared.ends(name, figure)
            tests = [test[figure] for test in compared.tests[name]]
            for part, values in (("validation", ends), ("test", tests)):
                flat[f"{name}/{part}_{figure}"] = float(np.mean(values))
                flat[f"{name}/{part}_{figure}_sd"] = deviation(values)
            for seed, run in zip(compared.seeds, runs):
                curve = zip(run.steps, run.curve(figure))
                flat |= {f"{name}/{seed}/{step}/validation_{figure}": y for step, y in curve}
    for name, lengths in compared.shorter.items():
        for length, runs in lengths.items():
            for seed, run in zip(compared.seeds, runs):
                flat[f"{name}/length {length:g}/{seed}/validation_loss"] = run.end("loss")
    flat[f"{BASELINE}/target"] = compared.target
    return flat


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation over seeds; None of one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
