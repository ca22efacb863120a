"""The digits experiment: real data, a fixed split, figures that mean what they say."""

import json

import jax
import numpy as np
import optax
import pytest

from experiments import digits
from experiments.harness.devices import make_mesh
from experiments.harness.options import Options
from experiments.harness.run_folder import open_run


def test_splits_are_disjoint_complete_and_fixed():
    splits = digits.load_splits()
    assert [len(split.labels) for split in splits] == [1077, 360, 360]
    images = np.concatenate([split.images for split in splits])
    assert images.min() == 0.0 and images.max() == 1.0
    assert len(np.unique(images, axis=0)) == 1797
    assert all(len(np.unique(split.labels)) == 10 for split in splits)


def test_batches_depend_on_seed_and_epoch_only():
    training = digits.load_splits()[0]

    def rows(epoch, seed):
        batches = list(digits._batches(training, epoch=epoch, seed=seed))
        assert len(batches) == digits.STEPS_BETWEEN_EVALUATIONS
        return np.concatenate([batch["images"] for batch in batches])

    assert len(np.unique(rows(0, 0), axis=0)) == 4 * digits.BATCH_SIZE
    np.testing.assert_array_equal(rows(1, 2), rows(1, 2))
    assert not np.array_equal(rows(1, 2), rows(2, 2))
    assert not np.array_equal(rows(1, 2), rows(1, 3))


def test_first_reaching_takes_the_first_record():
    history = [{"step": s, "accuracy": a} for s, a in ((4, 0.5), (8, 0.9), (12, 0.8), (16, 0.95))]
    assert digits.first_reaching(history, target=0.9)["step"] == 8
    assert digits.first_reaching(history, target=0.96) is None


def test_median_counts_a_missed_target_as_worst():
    assert digits._median([4, None, 8]) == 8
    assert digits._median([4, None, None]) is None


@pytest.mark.parametrize("devices", [1, 4])
def test_rows_report_what_was_reached(tmp_path, devices):
    with open_run("digits", Options(out=tmp_path / "run"), arguments=()) as run:
        good, frozen = digits.run_digits(
            run,
            {"adamw": optax.adamw(1e-2), "frozen": optax.sgd(0.0)},
            mesh=make_mesh(jax.devices()[:devices]),
            epochs=8,
            seeds=(0,),
            target=0.8,
        )
    assert 4 <= good.steps <= 32 and good.steps % 4 == 0
    assert good.seconds > 0.0
    assert good.test_accuracy > 0.85
    assert frozen.steps is None and frozen.seconds is None
    assert frozen.test_accuracy < 0.3


def test_command_writes_a_whole_run_folder(tmp_path, capsys):
    digits.main(["--preset", "smoke", "--out", str(tmp_path / "run")])
    files = {path.name for path in (tmp_path / "run").iterdir()}
    expected = {"config.json", "metrics.jsonl", "summary.json", "report.md", "report.png"}
    assert expected <= files
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["metrics"]["shampoo/test_accuracy"] > 0.5
    assert summary["baselines"]["adamw/test_accuracy"] > 0.5
    assert "Shampoo" in capsys.readouterr().out


def test_search_never_looks_at_the_test_split(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "FACTORIES", {"adamw": optax.adamw})
    out = str(tmp_path / "run")
    argv = ["--preset", "smoke", "--learning-rates", "0.01", "0.1", "--out", out]
    digits.main(argv)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["baselines"]["adamw@0.01/test_accuracy"] is None
    assert summary["baselines"]["adamw@0.01/validation_accuracy"] > 0.5
