"""Classes of small images, by a residual network."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data.images import Images, Labelled
from experiments.loop.train_step import Params
from experiments.models.resnet import ResNet
from experiments.tasks.learning_task import LearningTask, Score

CHUNK = 500  # images that are scored at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crops:
    """What a network sees of an image.

    Attributes:
      side: of the square that is cut out: anywhere in training, the centre in evaluation.
      flip: whether half of the training images are mirrored.
    """

    side: int
    flip: bool = False


def image_task(
    images: Images, *, model: ResNet, batch_size: int, intro: str, crops: Crops | None = None
) -> LearningTask:
    """Pose the classification of images.

    Args:
      images: uint8, whose values the network sees with mean 0 and deviation 1 per channel.
      model: the network.
      batch_size: images per step.
      crops: of the images; None = whole images as they are.
      intro: of the report.
    """
    training = images.training.images
    classes = int(images.training.labels.max()) + 1
    mean = training.mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
    deviation = np.maximum(training.std(axis=(0, 1, 2), dtype=np.float64), 1e-3).astype(np.float32)

    def logits_of(params: Params, pixels: jax.Array) -> jax.Array:
        x = (pixels.astype(jnp.float32) - mean[None, None, None]) / deviation[None, None, None]
        return cast(jax.Array, model.apply(params, x))

    def loss(params, batch, key) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        del key
        logits = logits_of(params, batch["images"])
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        return jnp.mean(entropy), {}

    @jax.jit
    def sums_of(params, batch) -> jax.Array:
        logits = logits_of(params, batch["images"])
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        return jnp.stack([entropy.sum(), (logits.argmax(-1) == batch["labels"]).sum()])

    def score(part: Labelled) -> Score:
        pixels = part.images if crops is None else centre(part.images, crops.side)
        chunks = [
            {"images": pixels[i : i + CHUNK], "labels": part.labels[i : i + CHUNK]}
            for i in range(0, len(part.labels), CHUNK)
        ]

        def figures(params: Params) -> dict[str, float]:
            sums = np.sum([np.asarray(sums_of(params, chunk)) for chunk in chunks], axis=0)
            loss, correct = (sums / len(part.labels)).tolist()
            return {"loss": loss, "accuracy": correct}

        return figures

    cut = cutter(crops)

    def batches(first: int, count: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
        for step, rows in rows_of_steps(
            len(training), batch_size, first=first, count=count, seed=seed
        ):
            yield {
                "images": cut(training, rows, np.random.default_rng((seed, step, 1))),
                "labels": images.training.labels[rows],
            }

    side = crops.side if crops else training.shape[1]
    blank = np.zeros((1, side, side, training.shape[3]), np.float32)
    sizes = (len(part.labels) for part in (images.training, images.validation, images.test))
    return LearningTask(
        init_params=lambda key: model.init(key, blank),
        loss=loss,
        batches=batches,
        validate=score(images.validation),
        test=score(images.test),
        chance=math.log(classes),
        figure="accuracy",
        intro=intro,
        split="{:,} images train, {:,} validate, {:,} test".format(*sizes),
    )


def rows_of_steps(
    size: int, batch_size: int, *, first: int, count: int, seed: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the rows of each step: passes over the data, each in an order of its own.

    What is left of a pass behind its last whole batch is dropped.
    """
    per_pass = size // batch_size
    order, drawn = np.empty(0, int), -1
    for step in range(first, first + count):
        if step // per_pass != drawn:
            drawn = step // per_pass
            order = np.random.default_rng((seed, drawn)).permutation(size)
        place = step % per_pass * batch_size
        yield step, order[place : place + batch_size]


def cutter(crops: Crops | None) -> Callable[..., np.ndarray]:
    """Return the function (images, rows, generator) -> the rows' images as training sees them."""
    if crops is None:
        return lambda images, rows, draw: images[rows]

    def cut(images: np.ndarray, rows: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        side = crops.side
        windows = np.lib.stride_tricks.sliding_window_view(images, (side, side), axis=(1, 2))
        y, x = draw.integers(0, windows.shape[1:3], (len(rows), 2)).T
        pixels = np.moveaxis(windows[rows, y, x], 1, -1)  # [B, C, side, side] -> channels last
        if crops.flip:
            mirrored = draw.random(len(rows)) < 0.5
            pixels = np.where(mirrored[:, None, None, None], pixels[:, :, ::-1], pixels)
        return np.ascontiguousarray(pixels)

    return cut


def centre(images: np.ndarray, side: int) -> np.ndarray:
    """Cut the square in the middle out of every image."""
    y, x = ((length - side) // 2 for length in images.shape[1:3])
    return images[:, y : y + side, x : x + side]
