"""Each task of the comparison, posed on what --data names or on what needs no download."""

from __future__ import annotations

from experiments.data.characters import read_characters
from experiments.data.cifar10 import read_cifar10
from experiments.data.datasets import read_mnist
from experiments.data.digits import digit_images
from experiments.data.images import Images, drawn_images, mnist_images, padded
from experiments.harness.study import Posed
from experiments.models.resnet import ResNet
from experiments.studies.optimizers.options import (
    Characters,
    Cifar10,
    Comparison,
    Digits,
    Mnist,
    Sequences,
)
from experiments.tasks.characters import character_task
from experiments.tasks.images import Crops, image_task
from experiments.tasks.next_item import data_name, pose, read_interactions
from experiments.tasks.sequences import sequence_task

VALIDATION_PER_CLASS = {"mnist": 250, "cifar10": 300}
CIFAR10_CROPS = Crops(side=24, flip=True)
DRAWN = "drawn images, ten patterns under noise"
LOSSY = "a LOSSY JPEG copy of CIFAR-10 (half of the colours' resolution), not the original pixels"


def pose_digits(options: Digits) -> Posed:
    """Split scikit-learn's digits as `experiments.digits` does; training moves them by a pixel.

    Without, a network of this size learns the 1,077 images by heart, and the validation loss rises.
    """
    about = "scikit-learn's digits, 8 x 8 pixels, moved by up to one in training"
    images = padded(digit_images(), by=1)
    return _pose_images(images, options, about=about, crops=Crops(side=8))


def pose_mnist(options: Mnist) -> Posed:
    """Read MNIST; the network sees it at half of its resolution from the first layer on."""
    if options.data is None:
        images, about = drawn_images(side=28, channels=1), DRAWN
    else:
        images, about = read_mnist(options.data), "MNIST, 28 x 28 pixels"
        name = f"<{options.data.name}>"
        images = mnist_images(images, name=name, per_class=VALIDATION_PER_CLASS["mnist"])
    return _pose_images(images, options, about=about, stem_stride=2)


def pose_cifar10(options: Cifar10) -> Posed:
    """Read CIFAR-10 from JPEG files."""
    if options.data is None:
        images, about = drawn_images(side=32, channels=3), DRAWN
    else:
        images = read_cifar10(options.data, per_class=VALIDATION_PER_CLASS["cifar10"])
        about = LOSSY
    about += ", crops of 24 x 24 pixels: random and mirrored in training, central in evaluation"
    return _pose_images(images, options, about=about, crops=CIFAR10_CROPS)


def pose_characters(options: Characters) -> Posed:
    """Read a text, or take Python source."""
    text = read_characters(options.data, least=2 * options.length)
    return Posed(character_task(text, **_sizes(options)), text.name)


def pose_sequences(options: Sequences) -> Posed:
    """Read interactions, or mine library calls; content is left out."""
    interactions = read_interactions(options.data, columns=options.columns)
    problem = pose(interactions, content_dim=0)
    return Posed(sequence_task(problem, **_sizes(options)), data_name(interactions))


def _sizes(options: Characters | Sequences) -> dict[str, int]:
    names = ("width", "layers", "length", "batch_size")
    return {name: getattr(options, name) for name in names}


def _pose_images(
    images: Images,
    options: Comparison,
    *,
    about: str,
    crops: Crops | None = None,
    stem_stride: int = 1,
) -> Posed:
    model = ResNet(width=options.width, stem_stride=stem_stride)
    intro = (
        f"{about[0].upper()}{about[1:]}: a pre-activation ResNet-8 of width {options.width} with "
        f"group norm, {options.batch_size} images per step."
    )
    task = image_task(images, model=model, batch_size=options.batch_size, intro=intro, crops=crops)
    return Posed(task, images.name)
