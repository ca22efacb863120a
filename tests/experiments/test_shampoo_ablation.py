"""The comparison on characters: causality, batches, the table and the command."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import shampoo_ablation
from experiments.bench.character_model import CharacterModel


def test_a_character_depends_on_earlier_ones_only():
    model = CharacterModel(7, width=8, layers=2, heads=2, length=6)
    inputs = jnp.array([[1, 2, 3, 4, 5, 6]])
    params = model.init(jax.random.key(0), inputs)
    changed = inputs.at[0, 4].set(0)
    before, after = model.apply(params, inputs), model.apply(params, changed)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert jnp.abs(before[:, 4:] - after[:, 4:]).max() > 0


def test_batches_are_a_function_of_seed_and_epoch():
    codes = np.arange(1000, dtype=np.int32)
    one, same, other = (next(shampoo_ablation.batches(codes, epoch=e, seed=0)) for e in (1, 1, 2))
    np.testing.assert_array_equal(one["inputs"], same["inputs"])
    np.testing.assert_array_equal(one["inputs"] + 1, one["labels"])
    assert not np.array_equal(one["inputs"], other["inputs"])


def test_command_compares_both_optimizers(tmp_path, monkeypatch):
    monkeypatch.setattr(shampoo_ablation, "STEPS_BETWEEN_EVALUATIONS", 15)
    monkeypatch.setattr(shampoo_ablation, "BATCH_SIZE", 8)
    monkeypatch.setattr(shampoo_ablation, "VALIDATION_WINDOWS", 64)
    small = functools.partial(CharacterModel, heads=2)
    monkeypatch.setattr(shampoo_ablation, "CharacterModel", small)
    text = tmp_path / "rhyme.txt"
    text.write_text("the cat sat on the mat, and that was that. " * 200)
    out = tmp_path / "run"
    arguments = ["--data", str(text), "--preset", "smoke", "--devices", "1"]
    arguments += ["--width", "32", "--layers", "1"]
    shampoo_ablation.main([*arguments, "--out", str(out)])
    summary = json.loads((out / "summary.json").read_text())
    assert summary["metrics"]["shampoo/0.004/validation_loss"] < 3.0
    assert summary["metrics"]["thrifty/0.004/validation_loss"] < 3.0
    assert summary["baselines"]["adamw/0.004/validation_loss"] < 3.0
    assert "<rhyme>" in summary["command"]


def test_a_short_text_is_refused(tmp_path, capsys):
    text = tmp_path / "short.txt"
    text.write_text("too short")
    with pytest.raises(SystemExit) as error:
        shampoo_ablation.main(["--data", str(text), "--out", str(tmp_path / "run")])
    assert error.value.code == 2
    assert "expected at least 1280 characters, found 9 characters" in capsys.readouterr().err
