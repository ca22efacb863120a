"""What a run of `experiments.shampoo_ablation` measures and says: a comparison, or its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.harness.figures import Figures
from experiments.harness.plots import Draw
from experiments.harness.study import Outcome, Setting
from experiments.studies.optimizers.axes import axis_panels, figures_of_axes, tables_of_axes, vary
from experiments.studies.optimizers.comparison import compare, figures_of
from experiments.studies.optimizers.directions import (
    direction_panels,
    figures_of_directions,
    table_of_directions,
    turn_all,
)
from experiments.studies.optimizers.factories import CLIP, WARMUP
from experiments.studies.optimizers.options import Comparison
from experiments.studies.optimizers.panels import comparison_panels
from experiments.studies.optimizers.tables import RIVALS, found, tables_of
from experiments.studies.optimizers.trial_log import open_trial_log
from experiments.studies.optimizers.trials import Trainer, Trials, search


def measure(setting: Setting[Comparison]) -> Outcome:
    """Compare the optimizers of the options, vary Shampoo, or turn steps."""
    options, task = setting.options, setting.inputs
    log = open_trial_log(setting.run, options.trials_from)
    trainer = Trainer(setting.run, task, setting.mesh, options.steps, options.evaluations, log)
    if options.axes:
        return vary_shampoo(setting, trainer)
    return turn_steps(setting, trainer) if options.directions else compare_all(setting, trainer)


def compare_all(setting: Setting[Comparison], trainer: Trainer) -> Outcome:
    """Compare the optimizers of the options."""
    options = setting.options
    compared = compare(
        trainer,
        _tried(setting, trainer, options.optimizers),
        trial_seed=options.trial_seed,
        seeds=options.all_seeds,
        turns=options.turns,
        before_test=lambda: setting.look_at_test("everything trained and chosen"),
    )
    flat = figures_of(compared)
    baselines = {key: flat[key] for key in flat if key.partition("/")[0] in RIVALS}
    return Outcome(
        title=f"Tuned optimizers: {setting.run.experiment.partition(' ')[2]}",
        intro=trainer.task.intro,
        protocol=protocol_of(trainer, finalists=options.finalists)
        | {"test": "looked at once, with the last parameters of every seed"},
        metrics={key: flat[key] for key in flat if key not in baselines},
        baselines=baselines,
        tables=tables_of(compared),
        found=found(compared),
    )


def vary_shampoo(setting: Setting[Comparison], trainer: Trainer) -> Outcome:
    """Change one choice of Shampoo at a time; the test data are not looked at."""
    options = setting.options
    point = _tried(setting, trainer, ("shampoo",))["shampoo"].chosen
    varied = vary(trainer, point, seeds=options.all_seeds)
    flat = figures_of_axes(varied)
    baselines = {key: flat[key] for key in flat if key.startswith("axes/default/")}
    chosen = ", ".join(f"{name} {value:.4g}" for name, value in point._asdict().items())
    return Outcome(
        title=f"Shampoo's choices: {setting.run.experiment.partition(' ')[2]}",
        intro=f"{trainer.task.intro} One choice of Shampoo is changed at a time; the claim below "
        "is not what this run tests.",
        protocol=protocol_of(trainer, finalists=options.finalists)
        | {"point": chosen, "test": "not looked at"},
        metrics={key: flat[key] for key in flat if key not in baselines},
        baselines=baselines,
        tables=tables_of_axes(varied, seeds=options.seeds),
    )


def turn_steps(setting: Setting[Comparison], trainer: Trainer) -> Outcome:
    """Train every direction at the lengths of others; the test data are not looked at."""
    options = setting.options
    tried = _tried(setting, trainer, options.optimizers)
    points = {name: own.chosen for name, own in tried.items()}
    ends = turn_all(trainer, points, seeds=options.all_seeds)
    flat = figures_of_directions(ends)
    baselines = {key: flat[key] for key in flat if key.split("/")[1] in RIVALS}
    return Outcome(
        title=f"Directions and lengths: {setting.run.experiment.partition(' ')[2]}",
        intro=f"{trainer.task.intro} The claim below is not what this run tests.",
        protocol=protocol_of(trainer, finalists=options.finalists) | {"test": "not looked at"},
        metrics={key: flat[key] for key in flat if key not in baselines},
        baselines=baselines,
        tables=[table_of_directions(ends, seeds=options.seeds)],
    )


def _tried(
    setting: Setting[Comparison], trainer: Trainer, names: Sequence[str]
) -> dict[str, Trials]:
    """Return the trials of optimizers, by which each one's point is chosen."""
    options = setting.options
    how = {"trials": options.trials, "seed": options.trial_seed, "finalists": options.finalists}
    return search(trainer, names, **how)


def protocol_of(trainer: Trainer, *, finalists: int) -> dict[str, Any]:
    """Say how runs are trained and chosen."""
    selection = "the least validation loss at the end, of trials with one seed"
    if finalists > 1:
        selection += f"; the {finalists} best of them again from a second one, the least mean"
    return {
        "split": trainer.task.split,
        "selection": selection,
        "schedule": f"linear warm-up over {WARMUP:g} of the steps, cosine to zero; gradients "
        f"clipped to norm {CLIP:g}",
        "steps": trainer.steps,
    }


def panels_of(figures: Figures) -> Sequence[Draw]:
    """Draw what the figures are of."""
    if any(name.startswith("axes/") for name in figures):
        return axis_panels(figures)
    if any(name.startswith("directions/") for name in figures):
        return direction_panels(figures)
    return comparison_panels(figures)
