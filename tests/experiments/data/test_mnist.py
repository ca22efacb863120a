"""MNIST: four idx files, read whole or refused by name."""

import gzip

import numpy as np
import pytest

from experiments.data.datasets import read, read_idx, read_mnist
from experiments.harness.errors import InputError


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_mnist(folder, n_labels=3):
    folder.mkdir()
    for prefix in ("train", "t10k"):
        images = np.arange(24).reshape(3, 4, 2)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        labels = gzip.compress(idx(np.arange(n_labels)))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(labels)
    return folder


def test_mnist_round_trip(tmp_path):
    mnist = read_mnist(write_mnist(tmp_path / "m"))
    np.testing.assert_array_equal(mnist.train_images, np.arange(24).reshape(3, 4, 2))
    assert mnist.test_labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "expected 24 bytes after a header"),
        (lambda data: data[:7], "bytes after a header"),
        (lambda data: b"\1" + data[1:], "expected idx data"),
        (lambda data: b"", "expected idx data"),
        # The product of these sizes is 0 in 64 bits.
        (lambda data: b"\0\0\x08\4" + b"\0\1\0\0" * 4, "expected 18,446,744,073,709,551,616 by"),
    ],
)
def test_bad_idx(tmp_path, damage, message):
    path = tmp_path / "images"
    path.write_bytes(damage(idx(np.arange(24).reshape(3, 4, 2))))
    with pytest.raises(InputError, match=message):
        read_idx(path)


def test_bad_mnist_folders(tmp_path):
    with pytest.raises(InputError, match=r"train images .* and labels \[n\], found"):
        read_mnist(write_mnist(tmp_path / "m", n_labels=2))
    with pytest.raises(InputError, match=r"expected a file train-images-idx3-ubyte\[.gz\]"):
        read_mnist(tmp_path)
    with pytest.raises(InputError, match="MNIST images, not interactions"):
        read(tmp_path / "m")
