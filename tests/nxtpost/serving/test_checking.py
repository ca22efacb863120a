"""A folder that somebody made, digests and all, is refused by name before a request reads it."""

import json

import numpy as np
import pytest

from nxtpost_jax import folders, plain_arrays
from nxtpost_jax.serving import saving
from nxtpost_jax.serving.recommender import Recommender
from tests.nxtpost.small_recommender import TINY, N, drawn, drawn_content


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of a recommender with later items and a live user."""
    folder = tmp_path_factory.mktemp("forged") / "saved"
    recommender = drawn(TINY, drawn_content("channels"), num_items=N)
    recommender.add(drawn_content("channels", 2, seed=1))
    recommender.remove([5])
    recommender.update("ann", 3)
    recommender.save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def forge(folder, files, name, change):
    """Change the arrays of a file, or the header, and let the digests say so."""
    folder.mkdir()
    header = json.loads(files[saving.KIND.header])
    for each, data in files.items():
        (folder / each).write_bytes(data)
    if name == saving.KIND.header:
        change(header)
    else:
        arrays = plain_arrays.read(folder / name)
        change(arrays)
        np.savez(folder / name, **arrays)
    seal(folder, header)


def seal(folder, header):
    header.pop("digest")
    header["files"] = {name: folders._digest_of_file(folder / name) for name in header["files"]}
    header["digest"] = folders.digest_of(header)
    (folder / saving.KIND.header).write_text(json.dumps(header))


def put(name, place, value):
    def change(arrays):
        arrays[name] = arrays[name].copy()
        arrays[name][place] = value

    return change


FORGED = {
    "more layers than arrays": (
        "recommender.json",
        lambda said: said["config"].update(num_layers=10**12),
        "num_layers: expected at most .*, found 1000000000000",
    ),
    "text for a number": (
        "recommender.json",
        lambda said: said["config"].update(d_model="16"),
        "d_model: expected .* found '16'",
    ),
    "no such option": (
        "recommender.json",
        lambda said: said["config"].update(depth=2),
        "unexpected keyword argument 'depth'",
    ),
    "no config": ("recommender.json", lambda said: said.pop("config"), "'config'"),
    "more items than rows": (
        "content.npz",
        lambda arrays: arrays.update({"text/array": arrays["text/array"][:-1]}),
        "content: expected 24 rows, found 23",
    ),
    "a width of another model": (
        "params.npz",
        lambda arrays: arrays.update({"user_tower/positions": np.zeros((9, 16), np.float32)}),
        r"positions.*: expected float32\[8, 16\], found float32\[9, 16\]",
    ),
    "NaN": ("params.npz", put("user_tower/positions", 0, np.nan), "positions.*: expected finite"),
    "an array in the place of arrays": (
        "params.npz",
        lambda arrays: arrays.update({"user_tower/positions/x": np.zeros(1)}),
        "expected no array at 'positions', found one",
    ),
    "an id twice": ("catalogue.npz", put("ids", 1, 2), "ids: expected each in one place"),
    "an id that was removed": (
        "catalogue.npz",
        put("ids", 1, 5),
        "ids: expected each in one place",
    ),
    "an id below none": ("catalogue.npz", put("ids", 1, -7), "ids: expected -1 to .*, found -7"),
    "more recent slots than slots": (
        "catalogue.npz",
        put("recent", (), 10**6),
        "recent: expected 0 to",
    ),
    "infinity among vectors": (
        "catalogue.npz",
        put("vectors", 0, np.inf),
        "vectors.*: expected finite",
    ),
    "later items of another width": (
        "added.npz",
        lambda arrays: arrays.update({"text/array": arrays["text/array"][:, :2]}),
        "content: expected",
    ),
    "an event of no item": ("users.npz", put("items", 0, -3), "items: expected .* -3"),
    "stale items beyond the last": (
        "names.npz",
        lambda arrays: arrays.update(stale=np.array([10**6])),
        "stale: expected 0 to 23, found 1000000",
    ),
}


@pytest.mark.parametrize("what", FORGED)
def test_what_does_not_belong_together_is_refused_by_name(tmp_path, whole, what):
    name, change, message = FORGED[what]
    forge(tmp_path / "forged", whole, name, change)
    with pytest.raises(ValueError, match=rf"forged/{name}: expected .*{message}") as refused:
        Recommender.load(tmp_path / "forged")
    assert len(str(refused.value).splitlines()) == 1
