"""Every file of a sealed folder is as it was, or is named."""

import os
import shutil

import pytest

from experiments.harness.errors import InputError
from experiments.loop.sealed import SEAL, check, seal


@pytest.fixture
def folder(tmp_path):
    """Two sealed folders; the first is returned."""
    for name in ("one", "two"):
        for file in ("a", "b/c", "b/d/e"):
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} {file}\n")
        seal(tmp_path / name, name=name)
    return tmp_path / "one"


def refused(folder, message):
    with pytest.raises(InputError, match=message) as caught:
        check(folder, name="one")
    assert "\n" not in str(caught.value)


def test_a_whole_folder_passes_wherever_it_lies(folder):
    check(folder, name="one")
    folder.rename(folder.parent / "moved")
    check(folder.parent / "moved", name="one")


def test_what_changed_is_named(folder):
    path = folder / "b/d/e"
    whole = path.read_bytes()
    for other in (whole[:-1], whole + b"\n", b"", b"two b/d/e\n"):
        path.write_bytes(other)
        refused(folder, r"one/b/d/e: expected the bytes that were saved, found others")
    path.unlink()
    refused(folder, r"one/b/d/e: expected a file as it was saved, found no such file")
    os.mkfifo(path)
    refused(folder, r"one/b/d/e: expected the bytes that were saved, found others")
    path.unlink()
    path.mkdir()
    refused(folder, r"one/b/d/e: expected a file as it was saved, found no such file")
    path.rmdir()
    path.symlink_to(folder / "a")
    refused(folder, r"one/b/d/e: expected the bytes that were saved, found others")
    path.unlink()
    path.write_bytes(whole)
    check(folder, name="one")
    (folder / "b/more").symlink_to(folder)
    refused(folder, r"one/b/more: expected no file that was not saved, found one")


def test_a_folder_in_the_place_of_another_is_refused(folder):
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "two", folder)
    refused(folder, "expected the digests of one, found 'two'")


def test_every_flipped_bit_of_the_digests_is_seen(folder):
    path = folder / SEAL
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            refused(folder, f"{SEAL}: expected the digests")
    for other in (b"", whole[:-1], whole * 2, b"[]\n", b"null", b"[" * 100_000):
        path.write_bytes(other)
        refused(folder, f"{SEAL}: expected the digests that were saved, found others")
    path.unlink()
    refused(folder, f"{SEAL}: expected the digests of a checkpoint, found no such file")
