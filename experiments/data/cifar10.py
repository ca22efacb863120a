"""CIFAR-10 as JPEG files: train/CLASS/NAME.jpg and test/CLASS/NAME.jpg, in a folder or a tar.

Such copies are lossy: JPEG keeps a quarter of the colours and drops details, so figures are not
those of the original pixels.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.data.image_crops import NO_IMAGE
from experiments.data.images import Images, Labelled, split_images
from experiments.harness.errors import bad_input
from experiments.harness.provenance import DataName

_NAME = re.compile(r"(?:.*/)?(train|test)/([^/]+)/[^/]+\.jpe?g")
_MOST_BYTES = 1 << 20  # of one image: a hundred times what 32 x 32 pixels take
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz")


def read_cifar10(path: Path, *, per_class: int, side: int = 32) -> Images:
    """Decode all images; the last `per_class` training images of every class validate.

    Classes are numbered in the order of their names, images stand in that of theirs. The hash is
    over the JPEG files in that order.

    Args:
      path: a folder with train/ and test/, one with a tar of them, or the tar.
      per_class: validation images.
      side: pixels that an image must have in both directions.

    Raises:
      InputError: there are no such files, a damaged one, one of another size, or a class that
        only one of train and test has.
    """
    files = sorted(_files(path))
    names = [re.fullmatch(_NAME, name) for name, _ in files]
    parts = [match[1] for match in names if match]
    classes = [match[2] for match in names if match]
    labelled: dict[str, list[str]] = {"train": [], "test": []}
    for part, label in sorted({*zip(parts, classes)}):
        labelled[part].append(label)
    if not labelled["train"] or labelled["train"] != labelled["test"]:
        found = " and ".join(f"{part} of {len(own)}" for part, own in labelled.items())
        expected = "train/CLASS/*.jpg and test/CLASS/*.jpg of the same classes"
        raise bad_input(path, expected=expected, found=found)
    digest = hashlib.sha256()
    for _, data in files:
        digest.update(data)
    pixels = np.stack([_decode(data, name, side=side) for name, data in files])
    labels = np.searchsorted(labelled["train"], classes).astype(np.int32)
    trains = np.array(parts) == "train"
    training, test = (Labelled(pixels[which], labels[which]) for which in (trains, ~trains))
    name = DataName(f"<{path.name.split('.')[0]}>", digest.hexdigest()[:16])
    return split_images(name, training, test, per_class=per_class)


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name, from train/ or test/ on, and the bytes of every image."""
    if path.is_dir() and not (path / "train").is_dir():
        archives = [file for file in sorted(path.iterdir()) if file.name.endswith(_ARCHIVES)]
        if len(archives) != 1:
            expected = "train/ and test/, or one tar of them"
            raise bad_input(path, expected=expected, found=f"{len(archives)} tars")
        path = archives[0]
    if path.is_dir():
        for file in path.rglob("*"):
            if re.fullmatch(_NAME, name := file.relative_to(path).as_posix()):
                yield name, file.read_bytes()
        return
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and re.fullmatch(_NAME, member.name):
                    if member.size > _MOST_BYTES:
                        expected = f"images of at most {_MOST_BYTES:,} bytes"
                        found = f"{member.name} of {member.size:,}"
                        raise bad_input(path, expected=expected, found=found)
                    stream = archive.extractfile(member)
                    yield member.name, stream.read() if stream else b""
    except (OSError, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise bad_input(path, expected="a folder or a tar", found=str(error)) from error


def _decode(data: bytes, name: str, *, side: int) -> np.ndarray:
    """Decode one image: uint8 [side, side, 3]."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except NO_IMAGE as error:
        raise bad_input(name, expected="a JPEG image", found=str(error)) from error
    if pixels.shape != (side, side, 3):
        found = " x ".join(map(str, pixels.shape[:2]))
        raise bad_input(name, expected=f"{side} x {side} pixels", found=found)
    return pixels
