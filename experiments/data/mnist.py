"""The idx format of MNIST: a big-endian header of sizes, then unsigned bytes."""

import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.files import SourceFiles, read_bytes
from experiments.harness.errors import bad_input

_UNSIGNED_BYTE = 8


class Mnist(NamedTuple):
    """The four arrays of MNIST."""

    train_images: np.ndarray  # uint8 [n, rows, columns]
    train_labels: np.ndarray  # uint8 [n]
    test_images: np.ndarray  # uint8 [m, rows, columns]
    test_labels: np.ndarray  # uint8 [m]


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """Read one idx file of unsigned bytes, plain or gzipped, as a uint8 array.

    Raises:
        InputError: the file is missing, damaged, of another type, or not as long as it says.
    """
    path = Path(path)
    data = read_bytes(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UNSIGNED_BYTE:
        found = f"a file that starts with {data[:4].hex() or 'nothing'}"
        raise bad_input(path, expected="idx data of unsigned bytes (0000 08 ..)", found=found)
    offset = 4 + 4 * data[3]
    shape = tuple(np.frombuffer(data[4:offset][: (len(data[4:offset]) // 4) * 4], ">u4").tolist())
    size = math.prod(shape)
    if len(shape) != data[3] or len(data) - offset != size:
        expected = f"{size:,} bytes after a header of sizes {shape}"
        raise bad_input(path, expected=expected, found=f"{max(len(data) - offset, 0):,}")
    return np.frombuffer(data, np.uint8, offset=offset).reshape(shape)


def read_mnist(folder: str | os.PathLike) -> Mnist:
    """Read the four files of MNIST from a folder.

    Raises:
        InputError: a file is missing or damaged, or images and labels differ in number.
    """
    files = SourceFiles(folder)
    parts = []
    for prefix in ("train", "t10k"):
        images = _read_part(files, f"{prefix}-images-idx3-ubyte")
        labels = _read_part(files, f"{prefix}-labels-idx1-ubyte")
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise bad_input(
                files.folder,
                expected=f"{prefix} images [n, rows, columns] and labels [n]",
                found=f"{list(images.shape)} and {list(labels.shape)}",
            )
        parts += [images, labels]
    return Mnist(*parts)


def _read_part(files: SourceFiles, name: str) -> np.ndarray:
    path = files.find(name)
    if path is None:
        raise bad_input(files.folder, expected=f"a file {name}[.gz]", found="none")
    return read_idx(path)
