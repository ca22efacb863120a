"""The options of `experiments.image_classification`; the network and optimizer they name."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import optax

from experiments.harness.errors import bad_input
from experiments.harness.options import OneSeed, WithData, WithLayout, check_least, flag_of
from experiments.models.resnet import ResNet
from experiments.studies.image_recipes import Recipe, make_optimizer
from experiments.tasks.image_folder_task import Classifier

MODELS: dict[str, dict[str, Any]] = {
    "resnet50": {"width": 64, "blocks": (3, 4, 6, 3), "bottleneck": True, "large_stem": True},
    "resnet18": {"width": 64, "blocks": (2, 2, 2, 2), "large_stem": True},
    "resnet8": {},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images(OneSeed, WithData, WithLayout):
    """Train a residual network on a folder of photographs."""

    model: Literal["resnet50", "resnet18", "resnet8"] = "resnet50"
    """the network; resnet8 is for small images"""
    recipe: Recipe = "shampoo"
    """the optimizer and its options"""
    epochs: int = 90
    """passes over the training images"""
    batch_size: int = 256
    """images per step, of all devices together"""
    side: int = 224
    """pixels of the squares that the network sees"""
    rate: float = 0.1
    """learning rate per 256 images in a batch"""
    decay: float = 1e-4
    """weight decay, a part of the gradient"""
    warmup: int = 5
    """epochs until the learning rate is reached"""
    label_smoothing: float = 0.1
    """share of the labels' mass that is spread over all classes"""
    average: float = 0.9999
    """decay of the average of the parameters that is scored beside the last ones"""
    workers: int = 2
    """processes that decode images; 0 = none beside this one"""
    read: bool = False
    """time the reader alone, one epoch at most"""
    cost: bool = False
    """compile a step for several numbers of devices and show what it takes; needs no data"""
    counts: tuple[int, ...] = (1, 8, 64)
    """numbers of devices for --cost"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, epochs=1, batch_size=1, side=8, warmup=0, workers=0, rate=0, decay=0)
        for name in ("label_smoothing", "average"):
            if not 0 <= getattr(self, name) < 1:
                found = str(getattr(self, name))
                raise bad_input(flag_of(name), expected="a number in [0, 1)", found=found)


def network(options: Images, *, classes: int) -> Classifier:
    """Build the network."""
    model = ResNet(classes, **MODELS[options.model])
    smoothing = options.label_smoothing
    return Classifier(model=model, side=options.side, label_smoothing=smoothing)


def optimizer(options: Images, *, steps_per_epoch: int) -> optax.GradientTransformation:
    """Build the optimizer of the recipe."""
    return make_optimizer(
        options.recipe,
        rate=options.rate * options.batch_size / 256,
        decay=options.decay,
        warmup=options.warmup * steps_per_epoch,
        steps=options.epochs * steps_per_epoch,
    )
