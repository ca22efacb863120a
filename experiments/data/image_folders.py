"""Folders of images in ImageNet's layout: train/CLASS/NAME.jpg and val/CLASS/NAME.jpg."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np

from experiments.harness.errors import bad_input
from experiments.harness.provenance import DataName

PARTS = ("train", "val")
SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
    """Where the images of one part are: n paths, and their classes int32 [n]."""

    paths: tuple[str, ...]
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFolders:
    """Images that stay on disk.

    Attributes:
      name: of the data; its hash is over names and sizes of all files, not over their content.
      classes: names, in the order of their numbers.
      training, validation: files in the order of their names.
    """

    name: DataName
    classes: tuple[str, ...]
    training: ImageFiles
    validation: ImageFiles


def find_images(folder: Path) -> ImageFolders:
    """List the images of a folder; none is opened.

    Raises:
      InputError: train/ or val/ is missing or has no images, or val/ has a class that train/ has
        not.
    """
    found = {part: _by_class(folder / part) for part in PARTS}
    classes = tuple(found["train"])
    unknown = sorted(set(found["val"]) - set(classes))
    if unknown:
        expected = f"the {len(classes)} classes of train/"
        raise bad_input(folder / "val", expected=expected, found=f"{unknown[0]!r} beside them")
    digest = hashlib.sha256()
    for part in PARTS:
        for label, own in found[part].items():
            for path, size in own:
                digest.update(f"{part}/{label}/{os.path.basename(path)} {size}\n".encode())
    training, validation = (_files(found[part], classes) for part in PARTS)
    name = DataName(f"<{folder.resolve().name}>", digest.hexdigest()[:16])
    return ImageFolders(name, classes, training, validation)


def _by_class(part: Path) -> dict[str, list[tuple[str, int]]]:
    """Map every class to the paths and sizes of its images, in the order of their names."""
    try:
        folders = sorted(entry.path for entry in os.scandir(part) if entry.is_dir())
    except OSError as error:
        expected = "a folder of classes, CLASS/NAME.jpg"
        raise bad_input(part, expected=expected, found=error.strerror or str(error)) from error
    found = {}
    for folder in folders:
        images = sorted(
            (entry.path, entry.stat().st_size)
            for entry in os.scandir(folder)
            if entry.is_file() and os.path.splitext(entry.name)[1].lower() in SUFFIXES
        )
        if images:
            found[os.path.basename(folder)] = images
    if not found:
        raise bad_input(part, expected="images as CLASS/NAME.jpg", found="none")
    return found


def _files(found: dict[str, list[tuple[str, int]]], classes: tuple[str, ...]) -> ImageFiles:
    numbers = {label: number for number, label in enumerate(classes)}
    pairs = [(path, numbers[label]) for label, own in found.items() for path, _ in own]
    return ImageFiles(tuple(path for path, _ in pairs), np.array([n for _, n in pairs], np.int32))
