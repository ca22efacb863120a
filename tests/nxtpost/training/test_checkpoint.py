"""A fit that was stopped goes on to the same bits; another call is refused in one line."""

import jax
import numpy as np
import optax
import pytest

from nxtpost_jax.events.splits import leave_one_out
from nxtpost_jax.serving.recommender import Recommender
from tests.nxtpost.small_recommender import FAST, TINY, N, circle, cycles

SPLIT = leave_one_out(cycles())
HOW = {"epochs": 4, "batch_size": 32, "num_negatives": 16}


def fit(folder=None, *, stop_after=None, tx=FAST, recommender=None, **options):
    """Fit, or be killed after some epoch: the recommender and the epochs that it took."""
    recommender = recommender or Recommender(TINY, circle(np.arange(N)), tx=tx)
    taken = []

    def log(record):
        taken.append(record["epoch"])
        if record["epoch"] == stop_after:
            raise RuntimeError("killed")

    options = HOW | {"log": log, "checkpoint": folder} | options
    try:
        recommender.fit(SPLIT.train, **options)
    except RuntimeError:
        assert stop_after is not None
    return recommender, taken


def leaves(recommender):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(recommender.params)]


@pytest.mark.parametrize("options", [{}, {"validation": SPLIT.validation}], ids=["last", "best"])
def test_a_stopped_fit_goes_on_to_the_same_bits(tmp_path, options):
    whole, _ = fit(**options)
    fit(tmp_path / "kept", stop_after=1, **options)
    resumed, taken = fit(tmp_path / "kept", **options)
    assert taken == [2, 3]
    for a, b in zip(leaves(whole), leaves(resumed)):
        np.testing.assert_array_equal(a, b)
    again, taken = fit(tmp_path / "kept", **options)
    assert taken == []  # all is done: the same is served without training
    for a, b in zip(leaves(whole), leaves(again)):
        np.testing.assert_array_equal(a, b)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_save_that_is_killed_costs_an_epoch_at_most(tmp_path, monkeypatch):
    fit(tmp_path / "kept", stop_after=1)
    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            fit(tmp_path / "kept")
    _, taken = fit(tmp_path / "kept")
    assert taken == [2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed=0, found seed=1"),
        ({"epochs": 5}, "epochs=4, found epochs=5"),
        ({"num_negatives": 8}, "objective=.*, found objective="),
        ({"validation": SPLIT.validation}, "validation=None, found validation='"),
        ({"tx": optax.adafactor(1e-2)}, "the optimizer of .*kept, found another"),
    ],
)
def test_another_call_is_refused(kept, changes, message):
    with pytest.raises(ValueError, match=f"checkpoint: expected .*{message}") as caught:
        fit(kept, **changes)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "kept"
    fit(folder, stop_after=0)
    return folder


def test_other_events_are_refused(kept):
    with pytest.raises(ValueError, match="checkpoint: expected the call that it is of, events="):
        Recommender(TINY, circle(np.arange(N)), tx=FAST).fit(cycles(9), checkpoint=kept, **HOW)


def test_a_damaged_file_is_named(tmp_path):
    fit(tmp_path / "own", stop_after=0)
    file = tmp_path / "own" / "params.npz"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(ValueError, match=r"params\.npz: expected the bytes that were saved"):
        fit(tmp_path / "own")
    with pytest.raises(ValueError, match="path: expected an empty folder or a checkpoint, found"):
        (tmp_path / "letter.txt").write_text("dear reader")
        fit(tmp_path)


def test_going_on_is_kept_too(tmp_path):
    """A second process that loads the model and goes on ends in the same bits."""
    fit()[0].save(tmp_path / "model")
    ended = []
    for stops in ((None,), (1, None)):
        for stop in stops:
            recommender = Recommender.load(tmp_path / "model", tx=FAST)
            folder = tmp_path / f"kept {len(stops)}"
            fit(folder, recommender=recommender, more=True, stop_after=stop)
        ended.append(leaves(recommender))
    for a, b in zip(*ended):
        np.testing.assert_array_equal(a, b)
    recommender = Recommender.load(tmp_path / "model", tx=FAST)
    recommender.fit(SPLIT.train, epochs=1, more=True)
    with pytest.raises(ValueError, match="checkpoint: expected the call that it is of, more="):
        fit(folder, recommender=recommender, more=True)
