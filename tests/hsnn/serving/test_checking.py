"""A folder that somebody made, digests and all, is refused by name before a search reads it."""

import json
import pickle
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from hsnn_jax import LTIConfig, Retriever, plain_arrays
from hsnn_jax import folder as folder_files
from tests.test_plain_arrays import Payload


def scaled(params, users, items):
    return jnp.einsum("bd,bmd->bm", users * params["weight"][None], items)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of a retriever with a scorer of its own and strings for ids."""
    folder = tmp_path_factory.mktemp("forged") / "saved"
    vectors = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    params = {"weight": np.linspace(0.5, 2, 8, dtype=np.float32)}
    retriever = Retriever(LTIConfig(num_nodes=6), scorer=scaled, params=params)
    retriever.build_index(vectors, item_ids=[f"item {n}" for n in range(60)], reserve=4)
    retriever.save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def seal(folder, header):
    header.pop("digest")
    header["arrays"] = folder_files._digest_of_file(folder / "arrays.npz")
    header["digest"] = folder_files._digest(folder_files._canonical(header))
    (folder / "retriever.json").write_text(folder_files._text(header))


def forge(folder, files, name, change):
    """Change the arrays, or the header, and let the digests say so."""
    folder.mkdir()
    header = json.loads(files["retriever.json"])
    for each, data in files.items():
        (folder / each).write_bytes(data)
    if name == "retriever.json":
        change(header)
    else:
        arrays = plain_arrays.read(folder / name)
        change(arrays)
        np.savez(folder / name, **arrays)
    seal(folder, header)


def put(name, place, value):
    def change(arrays):
        arrays[name] = arrays[name].copy()
        arrays[name][place] = value

    return change


def named(ids):
    def change(arrays):
        arrays["item_ids"] = np.frombuffer(json.dumps(ids).encode(), np.uint8)

    return change


HEADER, ARRAYS = "retriever.json", "arrays.npz"
FORGED = {
    "no slack": (HEADER, lambda said: said.pop("slack"), "'slack'"),
    "a slack below 1": (HEADER, lambda said: said.update(slack=-2.0), "slack: expected .* -2.0"),
    "text for a number": (
        HEADER,
        lambda said: said["config"].update(total_steps="9"),
        "total_steps: exp",
    ),
    "a beam of text": (HEADER, lambda said: said.update(max_beam=["x"]), "max_beam: expected"),
    "a task without a model": (HEADER, lambda said: said.update(task="x"), "task: expected none"),
    "a row that is none": (
        ARRAYS,
        put("index/lists", (0, 0), 10**6),
        "lists: expected rows below 64",
    ),
    "an item twice": (
        ARRAYS,
        put("index/lists", (0, slice(2)), 3),
        "lists: expected rows below 64, each once",
    ),
    "counts of other lists": (
        ARRAYS,
        put("index/counts", 0, 0),
        "counts: expected those of the lists",
    ),
    "positions of other lists": (
        ARRAYS,
        put("index/positions", 0, 7),
        "positions: expected those of the",
    ),
    "no such representative": (
        ARRAYS,
        put("index/representatives", 0, 99),
        "representatives: expected -1 to 63",
    ),
    "NaN among nodes": (ARRAYS, put("index/nodes", 0, np.nan), "nodes: expected .*finite"),
    "NaN among parameters": (ARRAYS, put("params/weight", 0, np.nan), "weight.*: expected finite"),
    "parameters of another width": (
        ARRAYS,
        lambda arrays: arrays.update({"params/weight": np.zeros(5, np.float32)}),
        "params: expected what scaled reads",
    ),
    "an id twice": (ARRAYS, named(["x"] * 60 + [None] * 4), "item_ids: expected distinct"),
    "an item without an id": (ARRAYS, named([None] * 64), "item_ids: expected one per listed"),
    "lists for ids": (ARRAYS, named([[]] * 64), "item_ids: expected strings"),
    "fewer ids than items": (ARRAYS, named(["x"]), "item_ids: expected 64, found 1"),
    "a calibration of other nodes": (
        ARRAYS,
        lambda arrays: arrays.update({"tail/spread": np.zeros(3, np.float32)}),
        "Tail",
    ),
}


@pytest.mark.parametrize("what", FORGED)
def test_what_does_not_belong_together_is_refused_by_name(tmp_path, whole, what):
    name, change, message = FORGED[what]
    forge(tmp_path / "forged", whole, name, change)
    with pytest.raises(ValueError, match=rf"forged/{name}: expected .*{message}") as refused:
        Retriever.load(tmp_path / "forged", scorer=scaled)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("data", "packing"),
    [
        (pickle.dumps(Payload()), zipfile.ZIP_STORED),
        (bytes(1 << 24), zipfile.ZIP_DEFLATED),
        (b"", zipfile.ZIP_STORED),
    ],
)
def test_arrays_that_are_none_are_refused(tmp_path, whole, data, packing):
    forge(tmp_path / "forged", whole, HEADER, lambda said: None)
    with zipfile.ZipFile(tmp_path / "forged" / ARRAYS, "w", packing) as archive:
        archive.writestr("index/nodes.npy", data)
    seal(tmp_path / "forged", json.loads((tmp_path / "forged" / HEADER).read_text()))
    with pytest.raises(ValueError, match=r"forged/arrays\.npz: expected what"):
        Retriever.load(tmp_path / "forged", scorer=scaled)
