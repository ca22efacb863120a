import os
import resource
import shutil

import jax
import numpy as np
import pytest

from nxtpost_jax.serving import saving
from nxtpost_jax.serving.recommender import Recommender
from tests.nxtpost.small_recommender import TINY, N, drawn, drawn_content

HISTORY = [[1, 2, 3]]


def same(one, other):
    for a, b in zip(one.recommend(HISTORY, 5), other.recommend(HISTORY, 5)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["none", "vectors", "channels"])
def test_a_saved_recommender_answers_the_same(tmp_path, kind):
    """With items that came and went; saved twice, the second time over the first."""
    recommender = drawn(TINY, drawn_content(kind), num_items=N)
    recommender.save(tmp_path / "saved")
    recommender.remove([3, 7, 8])
    if kind != "none":
        recommender.add(drawn_content(kind, 2, seed=1), [100, 7])
    recommender.save(tmp_path / "saved")
    loaded = Recommender.load(tmp_path / "saved")
    histories = [[1, 2, 8]] if kind == "none" else [[1, 100, 8]]
    for a, b in zip(recommender.recommend(histories, 20), loaded.recommend(histories, 20)):
        np.testing.assert_array_equal(a, b)
    assert loaded.catalogue.next_id == recommender.catalogue.next_id
    loaded.add(ids=[3])
    assert 3 in loaded.recommend(histories, 20, allowed=[3]).ids


def test_what_is_no_saved_recommender_is_refused(tmp_path):
    recommender = drawn(TINY, None, num_items=N)
    with pytest.raises(ValueError, match="expected a saved recommender, found no such file"):
        Recommender.load(tmp_path)
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(ValueError, match=r"path: expected .* or a recommender, found letter\.txt"):
        recommender.save(tmp_path)
    with pytest.raises(ValueError, match="path: expected a folder, found the file"):
        recommender.save(tmp_path / "letter.txt")
    recommender.save(tmp_path / "new")
    header = tmp_path / "new" / "recommender.json"
    header.write_text(header.read_text().replace('"version": 4', '"version": 99'))
    with pytest.raises(ValueError, match="expected version 4, found 99"):
        Recommender.load(tmp_path / "new")


FILES = ("recommender.json", "params.npz", "catalogue.npz", "content.npz", "users.npz")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two recommenders of one shape, saved; the first and the second folder."""
    folder = tmp_path_factory.mktemp("two")
    for seed, name in enumerate(("one", "two")):
        recommender = drawn(TINY, drawn_content("vectors", seed=seed), num_items=N)
        params = jax.tree.map(lambda leaf, by=1 + seed: by * leaf, recommender.params)
        recommender._served.replace(params, recommender.catalogue)
        recommender.update("ann", 3 + seed)
        recommender.save(folder / name)
    return folder / "one", folder / "two"


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_recommender_is_named(tmp_path, two, name):
    one, other = two
    mixed = tmp_path / "mixed"
    shutil.copytree(one, mixed)
    shutil.copyfile(other / name, mixed / name)
    expected = "params.npz" if name == "recommender.json" else name
    with pytest.raises(ValueError, match=rf"mixed/{expected}: expected the bytes .* found others"):
        Recommender.load(mixed)


def damaged(whole, rng):
    """A file cut off, with another bit, longer, zeroed from somewhere on, or empty."""
    place = int(rng.integers(len(whole)))
    bit = bytes([whole[place] ^ 1 << int(rng.integers(8))])
    return rng.choice(
        np.array(
            [
                whole[:place],
                whole[:place] + bit + whole[place + 1 :],
                whole + whole[place:],
                whole[:place] + bytes(len(whole) - place),
                b"",
            ],
            dtype=object,
        )
    )


def check_damages(two, tmp_path, *, seed, damages):
    """Each damaged folder raises a ValueError of one line that names the file."""
    rng, unnoticed = np.random.default_rng(seed), 0
    folder = tmp_path / "damaged"
    shutil.copytree(two[0], folder)
    for _ in range(damages):
        file = folder / rng.choice(FILES)
        whole = file.read_bytes()
        file.write_bytes(damaged(whole, rng))
        try:
            saving.load(folder)
        except ValueError as error:
            assert str(error).startswith(f"{file}: expected ")
            assert len(str(error).splitlines()) == 1
        else:  # white space in the header may be other white space
            assert file.name == "recommender.json" or file.read_bytes() == whole
            assert file.read_bytes().split() == whole.split()
            unnoticed += 1
        file.write_bytes(whole)
    assert unnoticed <= damages // 10


def test_a_damaged_file_is_named(tmp_path, two):
    check_damages(two, tmp_path, seed=0, damages=100)


@pytest.mark.long
def test_each_of_many_damaged_files_is_named(tmp_path, two):
    check_damages(two, tmp_path, seed=1, damages=2_295)


def test_what_is_missing_or_too_many_is_named(tmp_path, two):
    folder = tmp_path / "saved"
    shutil.copytree(two[0], folder)
    for name in FILES[1:]:
        (folder / name).rename(tmp_path / "away")
        with pytest.raises(ValueError, match=f"{name}: expected a file .* found no such file"):
            Recommender.load(folder)
        (folder / name).mkdir()
        with pytest.raises(ValueError, match=f"{name}: expected a file .* found no such file"):
            Recommender.load(folder)
        (folder / name).rmdir()
        (tmp_path / "away").rename(folder / name)
    Recommender.load(folder)
    drawn(TINY, None, num_items=N).save(tmp_path / "none")
    shutil.copyfile(folder / "content.npz", tmp_path / "none" / "content.npz")
    with pytest.raises(ValueError, match=r"content\.npz: expected no such file, .* found one"):
        Recommender.load(tmp_path / "none")


@pytest.mark.parametrize("text", ["null", "[]", "7", '{"version": 4}', "[" * 100_000, "\0"])
def test_a_header_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "recommender.json").write_text(text)
    with pytest.raises(ValueError, match=r"recommender\.json: expected (version 4|JSON|the val)"):
        Recommender.load(tmp_path)


def test_a_failed_save_leaves_the_one_before(tmp_path):
    """A limit of 4 KB on files stops the second save; so does a full disk."""
    recommender = drawn(TINY, None, num_items=N)
    recommender.save(tmp_path / "saved")
    recommender.remove([3])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        for place in ("saved", "new"):
            with pytest.raises(OSError, match="File too large"):
                recommender.save(tmp_path / place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    recommender.add(ids=[3])
    same(Recommender.load(tmp_path / "saved"), recommender)


@pytest.mark.parametrize("again", [False, True])
def test_a_save_killed_between_its_renames_loses_nothing(tmp_path, monkeypatch, again):
    """The older folder is aside then: it is loaded, and another save begins from it."""
    recommender = drawn(TINY, None, num_items=N)
    place = tmp_path / "saved"
    recommender.save(place)
    rename = os.rename

    def killed(source, target):
        if target == place:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        recommender.save(place)  # the way back is a rename to the same place: it fails as well
    monkeypatch.undo()
    assert not place.exists()
    if again:
        recommender.save(place)
        assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    same(Recommender.load(place), recommender)


def test_a_save_replaces_what_a_link_points_to(tmp_path):
    recommender = drawn(TINY, None, num_items=N)
    recommender.save(tmp_path / "one")
    (tmp_path / "now").symlink_to(tmp_path / "one")
    recommender.remove([3])
    recommender.save(tmp_path / "now")
    assert (tmp_path / "now").is_symlink()
    same(Recommender.load(tmp_path / "one"), recommender)
