"""One choice of Shampoo changed at a time, around its defaults at the point that its trials chose.

Each setting is trained at the chosen rate and at multiples of it, so that none is judged at
another's rate. Without grafting, or with SGD's, directions have another length than Adam's, which
the chosen rate fits; these settings get larger multiples. While the best of a setting's multiples
is the outermost one, one more is tried beyond it, for the default as for the others.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import shampoo_jax
from experiments.harness.figures import Figures, mean_and_error, pick
from experiments.harness.plots import Draw, draw_points
from experiments.harness.report import Table, signed
from experiments.studies.optimizers.factories import Factory, of_shampoo_jax
from experiments.studies.optimizers.spaces import Point
from experiments.studies.optimizers.tables import spread
from experiments.studies.optimizers.targets import median_of, or_chance, steps_to_target
from experiments.studies.optimizers.trials import Trained, Trainer
from shampoo_jax import Blocks, Refresh, Root, default_exponents, grafting, paper_exponents

MULTIPLES = (0.5, 1.0, 2.0)
MOST_FURTHER = 3  # multiples of a setting, beyond those that it begins with
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A choice, and the multiples of the chosen rate that it is trained at first, ascending."""

    factory: Factory
    multiples: tuple[float, float, float] = MULTIPLES


def _shampoo(**how: Any) -> Setting:
    return Setting(of_shampoo_jax(shampoo_jax.shampoo, **how))


def _grafted(make: Callable[[Any], Any], multiples: tuple[float, float, float]) -> Setting:
    """Graft by what `make` makes of b2."""

    def factory(rate: Any, weight_decay: Any, b1: Any, b2: Any, other_rate: Any) -> Any:
        own = of_shampoo_jax(shampoo_jax.shampoo, grafting=make(b2))
        return own(rate, weight_decay, b1, b2, other_rate)

    return Setting(factory, multiples)


def multiplied(shape: Shape, *, by: float) -> tuple[float, ...] | None:
    """Return the default inverse exponents of a shape, multiplied."""
    own = default_exponents(shape)
    return None if own is None else tuple(by * exponent for exponent in own)


def with_vectors(shape: Shape) -> tuple[float, ...] | None:
    """Return the default inverse exponents of a shape, and 1/2 for vectors."""
    return (0.5,) if len(shape) == 1 else default_exponents(shape)


DEFAULT = _shampoo()
AXES: dict[str, dict[str, Setting]] = {
    "block size (128)": {
        f"{size}": _shampoo(blocks=Blocks(block_size=size)) for size in (16, 32, 64, 256)
    },
    "steps between refreshes (10)": {
        f"{steps}": _shampoo(refresh=Refresh(precondition_frequency=steps)) for steps in (1, 40)
    },
    "steps between statistics (1)": {
        f"{steps}": _shampoo(refresh=Refresh(statistics_frequency=steps)) for steps in (4, 10)
    },
    "first refresh (step 10)": {
        "step 1": _shampoo(refresh=Refresh(start_preconditioning_step=1)),
    },
    "steps between refreshes and statistics (10 and 1)": {
        "20 and 2, from step 1": _shampoo(refresh=Refresh(20, 1, 2)),
        "40 and 4, from step 1": _shampoo(refresh=Refresh(40, 1, 4)),
    },
    "grafting (Adam)": {
        "RMSprop": _grafted(grafting.rmsprop, MULTIPLES),
        "AdaGrad": _grafted(lambda b2: grafting.adagrad(), (1.0, 4.0, 16.0)),
        "SGD": _grafted(lambda b2: grafting.sgd(), (30.0, 100.0, 300.0)),
        "none": _grafted(lambda b2: None, (2.0, 8.0, 32.0)),
    },
    "epsilon (1e-6)": {f"{eps:g}": _shampoo(eps=eps) for eps in (1e-10, 1e-4, 1e-2)},
    "exponent (0.5)": {
        f"{by / 2:g}": _shampoo(blocks=Blocks(exponents=functools.partial(multiplied, by=by)))
        for by in (0.25, 0.5, 0.75, 1.5)
    }
    | {"the paper's": _shampoo(blocks=Blocks(exponents=paper_exponents))},
    "refresh (staggered)": {"all at once": _shampoo(refresh=Refresh(stagger=False))},
    "preconditioner (root inverse)": {
        "eigendecomposed": _shampoo(root=Root(preconditioner="eigendecomposed")),
        "SOAP": Setting(of_shampoo_jax(shampoo_jax.soap)),
    },
    "vectors (no factor)": {"a factor": _shampoo(blocks=Blocks(exponents=with_vectors))},
}


@dataclasses.dataclass(frozen=True, eq=False)
class Varied:
    """The runs of a setting: per multiple of the rate, one per seed."""

    runs: Mapping[float, Sequence[Trained]]
    chance: float

    def ends(self, multiple: float) -> list[float]:
        """Return the validation losses at the end."""
        return [or_chance(run.end("loss"), self.chance) for run in self.runs[multiple]]

    @property
    def best(self) -> float:
        """The multiple with the least mean loss at the end."""
        return min(self.runs, key=lambda multiple: np.mean(self.ends(multiple)))

    def further(self) -> float | None:
        """Return a multiple beyond the best one where that is outermost, else None."""
        tried = sorted(self.runs)
        for edge, inner in ((tried[0], tried[1]), (tried[-1], tried[-2])):
            if self.best == edge:
                return edge * edge / inner
        return None

    def above(self, other: Varied) -> tuple[float, float]:
        """Return how far its loss is above another setting's, both at their best, and the error."""
        (own, error), (theirs, their_error) = (
            mean_and_error(np.asarray(each.ends(each.best))) for each in (self, other)
        )
        return own - theirs, float(np.hypot(error, their_error))

    def steps_to(self, target: float) -> float | None:
        """Return the median steps to a target at the best multiple."""
        runs = self.runs[self.best]
        return median_of(
            [steps_to_target(run.steps, run.curve("loss"), target=target) for run in runs]
        )


def vary(trainer: Trainer, point: Point, *, seeds: Sequence[int]) -> dict[str, dict[str, Varied]]:
    """Train the default and every setting around the point that Shampoo's trials chose.

    Returns:
      What was trained by axis and setting: of the axis "default" one, "default".
    """

    def train(stage: str, setting: Setting) -> Varied:
        return at_multiples(trainer, stage, setting, point=point, seeds=seeds)

    found = {"default": {"default": train("default", DEFAULT)}}
    for i, (axis, settings) in enumerate(AXES.items()):
        named = enumerate(settings.items())
        found[axis] = {name: train(f"axis{i}-{j}", own) for j, (name, own) in named}
    return found


def at_multiples(
    trainer: Trainer, stage: str, setting: Setting, *, point: Point, seeds: Sequence[int]
) -> Varied:
    """Train a setting at its multiples of a point's rate, and on while the best is outermost."""

    def at(multiple: float) -> list[Trained]:
        own = point._replace(rate=multiple * point.rate)
        how = {"factory": setting.factory, "point": own}
        return [trainer.train(f"{stage}-{multiple:g}-{s}", seed=s, **how) for s in seeds]

    runs = {multiple: at(multiple) for multiple in setting.multiples}
    varied = Varied(runs, trainer.task.chance)
    for _ in range(MOST_FURTHER):
        further = varied.further()
        if further is None:
            break
        runs[further] = at(further)
    return varied


def tables_of_axes(found: Mapping[str, Mapping[str, Varied]], *, seeds: int) -> list[Table]:
    """Make a table per axis, the default as the baseline."""
    default = found["default"]["default"]
    target = float(np.median(default.ends(default.best)))

    def row(name: str, own: Varied) -> list:
        multiples = ", ".join(f"{multiple:g}" for multiple in sorted(own.runs))
        above = None if own is default else signed(*own.above(default))
        at_best = spread(own.ends(own.best))
        return [name, multiples, own.best, at_best, above, own.steps_to(target)]

    columns = ("setting", "multiples of the rate", "best of them", "loss at the best")
    columns = (*columns, "above the default's", "steps to the default's end")
    return [
        Table(
            title=axis[0].upper() + axis[1:],
            columns=columns,
            baselines=[row("default", default)],
            rows=[row(name, own) for name, own in settings.items()],
            note=f"Validation loss at the end, mean and standard deviation over {seeds} seed(s); "
            "the difference with its standard error. The default ends at "
            f"{target:.4g} at its best multiple, median over seeds.",
        )
        for axis, settings in found.items()
        if axis != "default"
    ]


def figures_of_axes(found: Mapping[str, Mapping[str, Varied]]) -> dict[str, float | None]:
    """Flatten: axes/AXIS/SETTING/MULTIPLE/N/validation_loss, N counting the seeds."""
    flat: dict[str, float | None] = {}
    for axis, settings in found.items():
        for name, own in settings.items():
            for multiple in own.runs:
                where = f"axes/{axis.replace('/', ':')}/{name.replace('/', ':')}/{multiple:g}"
                ends = enumerate(own.ends(multiple))
                flat |= {f"{where}/{n}/validation_loss": loss for n, loss in ends}
    return flat


def axis_panels(figures: Figures) -> list[Draw]:
    """Draw each axis's losses at the end, of every seed at the best multiple of a setting."""
    best: dict[str, dict[str, list[float]]] = {}
    pattern = r"axes/([^/]+)/([^/]+)/([^/]+)/\d+/validation_loss"
    for (axis, name, _), losses in pick(figures, pattern).items():
        rows = best.setdefault(axis, {})
        if name not in rows or np.mean(losses) < np.mean(rows[name]):
            rows[name] = losses
    default = best.pop("default", {})
    draw = functools.partial(draw_points, label="validation loss at the end, best rate")
    middle = float(np.mean(default["default"])) if default else None
    return [
        functools.partial(draw, rows=default | rows, title=axis, reference=middle)
        for axis, rows in best.items()
    ]
