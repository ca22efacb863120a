import os
import resource

import numpy as np
import pytest

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
    header.write_text(header.read_text().replace('"version": 3', '"version": 99'))
    with pytest.raises(ValueError, match="expected version 3, found 99"):
        Recommender.load(tmp_path / "new")


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
