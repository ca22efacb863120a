"""CIFAR-10 as JPEG files, drawn here."""

import io
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from experiments.data.cifar10 import read_cifar10
from experiments.harness.errors import InputError

SHADES = {"cat": 40, "ship": 200}


def jpeg(shade, side=8):
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (shade,) * 3).save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path):
    for part, count in (("train", 4), ("test", 2)):
        for label, shade in SHADES.items():
            own = tmp_path / "images" / part / label
            own.mkdir(parents=True)
            for i in range(count):
                (own / f"{i:04}.jpg").write_bytes(jpeg(shade + i))
    return tmp_path / "images"


def pack(folder, path):
    with tarfile.open(path, "w:xz") as archive:
        for part in ("train", "test"):
            archive.add(folder / part, part)


def test_images_are_decoded_and_split_by_class(folder):
    images = read_cifar10(folder, per_class=1, side=8)
    assert images.name.name == "<images>"
    assert images.training.images.shape == (6, 8, 8, 3)
    shades = images.validation.images[:, 0, 0, 0].astype(int)
    np.testing.assert_allclose(shades, (43, 203), atol=2)
    np.testing.assert_array_equal(images.validation.labels, (0, 1))
    np.testing.assert_array_equal(images.test.labels, (0, 0, 1, 1))


def test_a_tar_and_its_folder_are_the_same_images(folder, tmp_path):
    (tmp_path / "packed").mkdir()
    pack(folder, tmp_path / "packed" / "images.tar.xz")
    of_files = read_cifar10(folder, per_class=1, side=8)
    for path in (tmp_path / "packed", tmp_path / "packed" / "images.tar.xz"):
        images = read_cifar10(path, per_class=1, side=8)
        assert images.name.sha256 == of_files.name.sha256
        np.testing.assert_array_equal(images.test.images, of_files.test.images)


def test_what_is_no_such_folder_is_refused(folder, tmp_path):
    def refused(path):
        with pytest.raises(InputError) as error:
            read_cifar10(path, per_class=1, side=8)
        return str(error.value)

    (tmp_path / "empty").mkdir()
    assert "train/ and test/, or one tar of them, found 0 tars" in refused(tmp_path / "empty")
    assert "expected a folder or a tar, found" in refused(tmp_path / "nothing")
    damaged = folder / "train" / "cat" / "0002.jpg"
    damaged.write_bytes(b"no image")
    assert "train/cat/0002.jpg: expected a JPEG image, found" in refused(folder)
    damaged.write_bytes(jpeg(1, side=9))
    assert "train/cat/0002.jpg: expected 8 x 8 pixels, found 9 x 9" in refused(folder)
    damaged.write_bytes(jpeg(1))
    for file in (folder / "test" / "ship").iterdir():
        file.unlink()
    assert "of the same classes, found train of 2 and test of 1" in refused(folder)


def test_what_unpacks_to_far_more_is_refused_before_it_does(tmp_path):
    """A file of the tar, and an image that says it has 3.6e9 pixels."""
    packed = tmp_path / "bomb.tar.xz"
    with tarfile.open(packed, "w:xz", preset=0) as archive:
        member = tarfile.TarInfo("train/cat/0.jpg")
        member.size = 2 << 20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(InputError, match=r"at most 1,048,576 bytes, found train/cat/0.jpg of 2,"):
        read_cifar10(packed, per_class=1, side=8)
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    png = stream.getvalue()
    size = (60_000).to_bytes(4, "big")
    header = b"IHDR" + size + size + png[24:29]
    huge = png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]
    for part in ("train", "test"):
        (tmp_path / "images" / part / "cat").mkdir(parents=True)
        (tmp_path / "images" / part / "cat" / "0.jpg").write_bytes(huge)
    with pytest.raises(InputError, match=r"cat/0.jpg: expected a JPEG image, found .* exceeds"):
        read_cifar10(tmp_path / "images", per_class=1, side=8)


def test_a_tar_that_is_cut_or_changed_is_refused(folder, tmp_path):
    packed = tmp_path / "images.tar.xz"
    pack(folder, packed)
    whole = packed.read_bytes()
    for cut in (len(whole) // 2, len(whole) // 4):
        for bad in (whole[:cut], whole[:cut] + b"\xff" * 20 + whole[cut + 20 :]):
            packed.write_bytes(bad)
            with pytest.raises(InputError, match=r"images\.tar\.xz: expected a folder or a tar"):
                read_cifar10(packed, per_class=1, side=8)
