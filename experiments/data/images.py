"""Labelled images in three parts."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import NamedTuple

import numpy as np

from experiments.data.mnist import Mnist
from experiments.harness.provenance import DataName


class Labelled(NamedTuple):
    """Images uint8 [n, H, W, C] and their classes int32 [n]."""

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """What trains, validates and tests."""

    name: DataName
    training: Labelled
    validation: Labelled
    test: Labelled


def hold_out(labels: np.ndarray, *, per_class: int) -> np.ndarray:
    """Mark the last images of every class: bool [n]."""
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        held[np.flatnonzero(labels == label)[-per_class:]] = True
    return held


def split_images(name: DataName, training: Labelled, test: Labelled, *, per_class: int) -> Images:
    """Take the last `per_class` training images of every class for validation."""
    held = hold_out(training.labels, per_class=per_class)
    kept, validation = (
        Labelled(training.images[which], training.labels[which]) for which in (~held, held)
    )
    return Images(name, kept, validation, test)


def mnist_images(mnist: Mnist, *, name: str, per_class: int) -> Images:
    """Split MNIST, with a channel; the hash is over its four arrays."""
    digest = hashlib.sha256(b"".join(array.tobytes() for array in mnist)).hexdigest()[:16]
    training = Labelled(mnist.train_images[..., None], mnist.train_labels.astype(np.int32))
    test = Labelled(mnist.test_images[..., None], mnist.test_labels.astype(np.int32))
    return split_images(DataName(name, digest), training, test, per_class=per_class)


def padded(images: Images, *, by: int) -> Images:
    """Add a frame of zeros around every image."""
    frame = ((0, 0), (by, by), (by, by), (0, 0))
    parts = {
        name: Labelled(np.pad(getattr(images, name).images, frame), getattr(images, name).labels)
        for name in ("training", "validation", "test")
    }
    return dataclasses.replace(images, **parts)


def drawn_images(*, side: int, channels: int, seed: int = 0) -> Images:
    """Draw ten classes, a pattern each, under noise: what runs without a download."""
    draw = np.random.default_rng(seed)
    patterns = draw.normal(size=(10, side, side, channels))

    def part(size: int) -> Labelled:
        labels = np.arange(size, dtype=np.int32) % 10
        pixels = 128 + 30 * patterns[labels] + 50 * draw.normal(size=(size, side, side, channels))
        return Labelled(np.clip(pixels, 0, 255).astype(np.uint8), labels)

    return Images(DataName("<drawn-images>", f"seed{seed}"), part(1200), part(300), part(300))
