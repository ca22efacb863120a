"""A training that was stopped goes on from its folder, to the bits of one that was not."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from hsnn_jax import Retriever
from hsnn_jax import folder as folder_files
from hsnn_jax.training.checkpoint import _FORMAT, KIND
from tests.hsnn.training import test_joint_levels as levels
from tests.hsnn.training import test_one_model as one


class StoppedError(Exception):
    """Stands for whatever ends a process."""


def stop_at(step):
    def log(record):
        if record["step"] == step:
            raise StoppedError

    return log


def fit(folder, *, of=one, log=None, tx=None, seed=0, positives=None, **changes):
    users, items, liked = one.drawn()
    model = one.MODEL if of is one else levels.MODELS
    training = dataclasses.replace(of.TRAINING, checkpoint=folder, log=log, **changes)
    retriever = Retriever(of.CONFIG, model=model)
    positives = liked if positives is None else positives
    options = {"positives": positives, "tx": of.TX if tx is None else tx, "seed": seed}
    return retriever, retriever.fit(users, items, training=training, **options)


@pytest.mark.parametrize("of, step", [(one, 100), (levels, 40)], ids=["one model", "levels"])
def test_it_goes_on_to_the_same_bits(of, step, tmp_path):
    folder, told = tmp_path / "training", []
    unbroken, records = of.fitted()[:2]
    with pytest.raises(StoppedError):
        fit(folder, of=of, log=stop_at(step))
    retriever, again = fit(folder, of=of, log=told.append)
    assert again == records and told == records[len(records) - len(told) :]
    assert told[0]["step"] == step  # what came before the last validation is not done again
    for a, b in zip(*(jax.tree.leaves(each.params) for each in (unbroken, retriever)), strict=True):
        np.testing.assert_array_equal(a, b)
    # and a finished one is not trained again
    done, same = fit(folder, of=of, log=stop_at(step))
    assert same == records
    for a, b in zip(*(jax.tree.leaves(each.params) for each in (done, retriever)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "training"
    fit(folder, steps=50)
    return folder


@pytest.mark.parametrize(
    "change, message",
    [
        ({"steps": 60}, "expected the call that it is of, steps=50, found steps=60"),
        ({"batch_size": 32}, "expected the call that it is of, batch_size=64, found batch_size=32"),
        ({"seed": 1}, "expected the call that it is of, key="),
        ({"positives": one.drawn()[2][::-1].copy()}, "expected the call that it is of, data="),
        ({"tx": "adamw"}, "expected the call that it is of, tx='a transformation', found tx='adam"),
        ({"tx": optax.sgd(0.1)}, "expected the optimizer of .*training, found another"),
    ],
    ids=lambda change: "" if isinstance(change, str) else next(iter(change)),
)
def test_another_call_is_refused(folder, change, message):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=f"checkpoint: {message}"):
        fit(folder, **{"steps": 50} | change)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["training.json", "arrays.npz"])
def test_a_damaged_file_is_named(folder, name, tmp_path):
    copy = tmp_path / "training"
    copy.mkdir()
    for path in folder.iterdir():
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= path.name == name
        (copy / path.name).write_bytes(damaged)
    with pytest.raises(ValueError, match=f"{name}: expected"):
        fit(copy, steps=50)


@pytest.mark.parametrize("name", ["call", "records", "state", "best", "best_value", "since"])
def test_a_forged_header_is_named(folder, name, tmp_path):
    header, arrays = folder_files.read(folder, KIND, form=_FORMAT)
    folder_files.write(tmp_path / "made", KIND, header=header | {name: "x"}, arrays=arrays)
    with pytest.raises(ValueError, match=r"training\.json: expected what `save` wrote, found"):
        fit(tmp_path / "made", steps=50)


def test_another_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"training\.json: expected the header of a training"):
        fit(tmp_path, steps=50)
    assert (tmp_path / "mine.txt").read_text() == "mine"
