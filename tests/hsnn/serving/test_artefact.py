"""A saved retriever is read as it was written, or refused by file; an older one is not lost."""

import os
import re
import resource
import shutil

import numpy as np
import pytest

from hsnn_jax import LTIConfig, Retriever
from hsnn_jax.serving import artefact

CONFIG = LTIConfig(num_nodes=6)
FILES = ("arrays.npz", "retriever.json")


def built(seed=0, items=60):
    vectors = np.random.default_rng(seed).normal(size=(items, 8)).astype(np.float32)
    retriever = Retriever(CONFIG)
    retriever.build_index(vectors, item_ids=100 + np.arange(items))
    return retriever


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two retrievers of one shape, saved."""
    folder = tmp_path_factory.mktemp("two")
    for seed, name in enumerate(("one", "two")):
        built(seed).save(folder / name)
    return folder / "one", folder / "two"


def same(one, other):
    users = np.random.default_rng(9).normal(size=(5, 8)).astype(np.float32)
    for a, b in zip(one.search(users, 4), other.search(users, 4)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_retriever_is_refused(tmp_path, two, name):
    shutil.copytree(two[0], tmp_path / "mixed")
    shutil.copyfile(two[1] / name, tmp_path / "mixed" / name)
    with pytest.raises(ValueError, match=r"mixed/arrays.npz: expected the bytes .* found others"):
        Retriever.load(tmp_path / "mixed")


def test_what_is_no_file_is_refused(tmp_path, two):
    for name in FILES:
        folder = tmp_path / name
        shutil.copytree(two[0], folder)
        (folder / name).unlink()
        with pytest.raises(ValueError, match=rf"{name}/{name}: expected .* found: No such file"):
            Retriever.load(folder)
        (folder / name).mkdir()
        with pytest.raises(ValueError, match=rf"{name}/{name}: expected .* found: Is a directory"):
            Retriever.load(folder)


@pytest.mark.parametrize("text", ["null", "[]", "7", "[" * 100_000, "\0", '{"format": []}'])
def test_a_header_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "retriever.json").write_text(text)
    with pytest.raises(ValueError, match=r"retriever\.json: expected (format|the header)"):
        Retriever.load(tmp_path)


@pytest.mark.long
def test_each_of_many_damaged_files_is_named(tmp_path, two):
    folder, rng = tmp_path / "damaged", np.random.default_rng(1)
    shutil.copytree(two[0], folder)
    for _ in range(2_295):
        file = folder / rng.choice(FILES)
        whole = file.read_bytes()
        place = int(rng.integers(len(whole)))
        bit = bytes([whole[place] ^ 1 << int(rng.integers(8))])
        kinds = (
            whole[:place],
            whole[:place] + bit + whole[place + 1 :],
            whole + whole[place:],
            whole[:place] + bytes(len(whole) - place),
            b"",
        )
        damaged = kinds[rng.integers(len(kinds))]
        if damaged == whole:  # zeros instead of zeros
            continue
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"^{re.escape(str(file))}: expected "):
            artefact.read(folder)
        file.write_bytes(whole)


def test_a_save_without_room_leaves_the_one_before(tmp_path):
    """A limit of 4 KB on files stops the second save; so does a full disk."""
    built().save(tmp_path / "saved")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        for place in ("saved", "new"):
            with pytest.raises(OSError, match="File too large"):
                built(1).save(tmp_path / place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    same(Retriever.load(tmp_path / "saved"), built())


@pytest.mark.parametrize("again", [False, True])
def test_a_save_killed_between_its_renames_loses_nothing(tmp_path, monkeypatch, again):
    """The older folder is aside then: it is loaded, and another save begins from it."""
    place = tmp_path / "saved"
    built().save(place)
    rename = os.rename

    def killed(source, target):
        if target == place:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(os, "rename", killed)
        built(1).save(place)  # the way back is a rename to the same place: it fails as well
    assert not place.exists()
    if again:
        built(2).save(place)
        assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    same(Retriever.load(place), built(2 if again else 0))


def test_a_save_replaces_what_a_link_points_to(tmp_path):
    built().save(tmp_path / "one")
    (tmp_path / "now").symlink_to(tmp_path / "one")
    built(1).save(tmp_path / "now")
    assert (tmp_path / "now").is_symlink()
    same(Retriever.load(tmp_path / "one"), built(1))
