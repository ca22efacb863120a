"""Shampoo against tuned rivals: who is first where tuned AdamW ends, who ends lowest.

    python -m experiments.shampoo_ablation digits
    python -m experiments.shampoo_ablation mnist --data FOLDER        # its four idx files
    python -m experiments.shampoo_ablation cifar10 --data FOLDER      # JPEG files, or a tar of them
    python -m experiments.shampoo_ablation characters --data TEXT
    python -m experiments.shampoo_ablation sequences --data FOLDER    # interactions
    python -m experiments.shampoo_ablation TASK --axes --seeds 3      # Shampoo, a choice at a time
    python -m experiments.shampoo_ablation TASK --directions          # directions and lengths apart
    python -m experiments.shampoo_ablation profile                    # all kept tasks joined
    python -m experiments.shampoo_ablation TASK --preset smoke        # small, no download
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
from typing import Any

from experiments.harness.study import Study
from experiments.harness.task_choice import run_task
from experiments.studies.optimizers.options import (
    Characters,
    Cifar10,
    Digits,
    Mnist,
    Profile,
    Sequences,
)
from experiments.studies.optimizers.outcomes import measure, panels_of
from experiments.studies.optimizers.posed import (
    pose_characters,
    pose_cifar10,
    pose_digits,
    pose_mnist,
    pose_sequences,
)
from experiments.studies.optimizers.profile import (
    measure_profile,
    pose_profile,
    profile_panels,
)

CLAIM = (
    "At equal budgets of tuning Shampoo reaches the validation loss at which tuned AdamW ends in "
    "fewer steps and seconds than SGD, AdamW and Muon."
)
SMOKE: dict[str, Any] = {
    "optimizers": ("adamw", "muon", "shampoo"),
    "steps": 12,
    "evaluations": 6,
    "batch_size": 16,
    "trials": 2,
    "seeds": 1,
    "turns": 1,
}


study_of = functools.partial(Study, claim=CLAIM, claim_panels=panels_of, measure=measure)

STUDIES = {
    "digits": study_of(
        name="shampoo_ablation digits",
        about="tuned optimizers: ResNet-8 on digits",
        minutes=30,
        presets={
            "default": Digits(),
            "smoke": Digits(**SMOKE, width=8),
        },
        pose=pose_digits,
    ),
    "mnist": study_of(
        name="shampoo_ablation mnist",
        about="tuned optimizers: ResNet-8 on MNIST",
        minutes=60,
        presets={
            "default": Mnist(),
            "smoke": Mnist(**SMOKE, width=8),
        },
        pose=pose_mnist,
    ),
    "cifar10": study_of(
        name="shampoo_ablation cifar10",
        about="tuned optimizers: ResNet-8 on CIFAR-10",
        minutes=240,
        presets={
            "default": Cifar10(),
            "smoke": Cifar10(**SMOKE, width=8),
        },
        pose=pose_cifar10,
    ),
    "characters": study_of(
        name="shampoo_ablation characters",
        about="tuned optimizers: Transformer on text",
        minutes=180,
        presets={
            "default": Characters(),
            "small": Characters(steps=480, width=64, layers=2),
            "smoke": Characters(**SMOKE, width=16, layers=1, length=16),
        },
        pose=pose_characters,
    ),
    "sequences": study_of(
        name="shampoo_ablation sequences",
        about="tuned optimizers: NxtPost on sequences",
        minutes=90,
        presets={
            "default": Sequences(),
            "smoke": Sequences(**SMOKE, width=16, layers=1, length=16),
        },
        pose=pose_sequences,
    ),
    "profile": Study(
        name="shampoo_ablation profile",
        about="tuned optimizers over all kept tasks",
        minutes=0.1,
        claim="On most tasks Shampoo is among the fastest to where tuned AdamW ends.",
        presets={"default": Profile(), "smoke": Profile()},
        claim_panels=profile_panels,
        pose=pose_profile,
        measure=measure_profile,
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study of a task; without one, --help lists them."""
    run_task(argv, STUDIES, command="shampoo_ablation", about=__doc__ or "")


if __name__ == "__main__":
    main()
