"""Shampoo against tuned rivals: who is first where tuned AdamW ends, who ends lowest.

    python -m experiments.shampoo_ablation digits                     # embedded images
    python -m experiments.shampoo_ablation characters --data TEXT     # Python source without
    python -m experiments.shampoo_ablation TASK --preset smoke        # seconds
    python -m experiments.shampoo_ablation TASK --help                # the options of a task

SGD with Nesterov momentum, AdamW, Muon, Shampoo, SOAP and KL-Shampoo get the same number of trials
at the same points of the unit cube, each mapped to ranges around what its authors published
(`experiments.studies.optimizers.spaces`), and the same steps, clipping, warm-up and cosine. The
trial that ends at the least validation loss is trained again from fresh seeds. Every run is a stage
of the run folder: `--resume FOLDER` continues a stopped study. Test data are looked at once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from experiments.data.characters import read_characters
from experiments.data.images import Images, Labelled
from experiments.digits import load_splits
from experiments.harness.provenance import DataName
from experiments.harness.study import Outcome, Posed, Setting, Study
from experiments.harness.task_choice import run_task
from experiments.models.resnet import ResNet
from experiments.studies.optimizers.comparison import compare, figures_of
from experiments.studies.optimizers.factories import CLIP, WARMUP
from experiments.studies.optimizers.options import Comparison, Transformer
from experiments.studies.optimizers.panels import comparison_panels
from experiments.studies.optimizers.tables import RIVALS, found, tables_of
from experiments.studies.optimizers.trials import Trainer
from experiments.tasks.characters import character_task
from experiments.tasks.images import image_task

CLAIM = (
    "At equal budgets of tuning Shampoo reaches the validation loss at which tuned AdamW ends in "
    "fewer steps and seconds than SGD, AdamW and Muon."
)
SMOKE = {"steps": 12, "evaluations": 6, "batch_size": 16, "trials": 2, "seeds": 1, "turns": 1}


def pose_digits(options: Comparison) -> Posed:
    """Split scikit-learn's digits as `experiments.digits` does."""
    parts = (
        Labelled((16 * part.images.reshape(-1, 8, 8, 1)).astype("uint8"), part.labels)
        for part in load_splits()
    )
    images = Images(DataName("<digits>", "scikit-learn"), *parts)
    intro = f"scikit-learn's digits, 8 x 8 pixels: {_resnet(options)}."
    model = ResNet(width=options.width)
    return Posed(image_task(images, model=model, batch_size=options.batch_size, intro=intro))


def pose_characters(options: Transformer) -> Posed:
    """Read the text."""
    text = read_characters(options.data, least=2 * options.length)
    sizes = {name: getattr(options, name) for name in ("width", "layers", "length", "batch_size")}
    return Posed(character_task(text, **sizes), text.name)


def _resnet(options: Comparison) -> str:
    return (
        f"a pre-activation ResNet-8 of width {options.width} with group norm, {options.batch_size} "
        "images per step"
    )


def measure(setting: Setting[Comparison]) -> Outcome:
    """Compare the optimizers of the options."""
    options, task = setting.options, setting.inputs
    trainer = Trainer(setting.run, task, setting.mesh, options.steps, options.evaluations)
    compared = compare(
        trainer,
        options.optimizers,
        trials=options.trials,
        trial_seed=options.trial_seed,
        seeds=options.all_seeds,
        turns=options.turns,
        before_test=lambda: setting.look_at_test("everything trained and chosen"),
    )
    flat = figures_of(compared)
    baselines = {key: flat[key] for key in flat if key.partition("/")[0] in RIVALS}
    return Outcome(
        title=f"Tuned optimizers: {setting.run.experiment.partition(' ')[2]}",
        intro=task.intro,
        protocol={
            "split": task.split,
            "selection": "the least validation loss at the end, of trials with one seed",
            "schedule": f"linear warm-up over {WARMUP:g} of the steps, cosine to zero; gradients "
            f"clipped to norm {CLIP:g}",
            "steps": options.steps,
            "test": "looked at once, with the last parameters of every seed",
        },
        metrics={key: flat[key] for key in flat if key not in baselines},
        baselines=baselines,
        tables=tables_of(compared),
        found=found(compared),
    )


study_of = functools.partial(Study, claim=CLAIM, claim_panels=comparison_panels, measure=measure)

STUDIES = {
    "digits": study_of(
        name="shampoo_ablation digits",
        about="Shampoo against tuned rivals: a ResNet on digits",
        minutes=30,
        presets={
            "default": Comparison(steps=480, batch_size=64, width=16),
            "smoke": Comparison(**SMOKE, width=8),
        },
        pose=pose_digits,
    ),
    "characters": study_of(
        name="shampoo_ablation characters",
        about="Shampoo against tuned rivals: a Transformer on text",
        minutes=180,
        presets={
            "default": Transformer(steps=1200, batch_size=32, width=128, trials=6, seeds=3),
            "small": Transformer(steps=480, batch_size=32, width=64, layers=2, trials=6, seeds=3),
            "smoke": Transformer(**SMOKE, width=16, layers=1, length=16),
        },
        pose=pose_characters,
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study of a task; without one, --help lists them."""
    run_task(argv, STUDIES, command="shampoo_ablation", about=__doc__ or "")


if __name__ == "__main__":
    main()
