"""The benchmark of optimizer steps runs and times what it says."""

import json

import jax
import optax
import pytest

from experiments import step_time
from experiments.errors import InputError
from experiments.sharding import make_mesh


def test_every_timed_step_is_counted_and_positive():
    timing = step_time.time_optimizer(
        optax.adamw(1e-3),
        step_time.transformer_shapes(width=8, layers=2),
        mesh=make_mesh(jax.devices()[:2]),
        steps=3,
        seed=0,
    )
    assert len(timing.milliseconds) == 3
    assert min(timing.milliseconds) > 0.0
    assert timing.compile_seconds > 0.0


def test_shapes_are_those_of_a_transformer():
    shapes = step_time.transformer_shapes(width=4, layers=2)
    assert list(shapes) == ["layer_0", "layer_1"]
    assert shapes["layer_1"]["up"] == (4, 16) and shapes["layer_1"]["down"] == (16, 4)


def test_command_writes_a_summary(tmp_path, monkeypatch):
    monkeypatch.setattr(
        step_time, "OPTIMIZERS", {"adamw": optax.adamw(1e-3), "shampoo": optax.sgd(1)}
    )
    step_time.main(["--preset", "smoke", "--out", str(tmp_path / "run")])
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["metrics"]["shampoo/median_ms"] > 0.0
    assert summary["baselines"]["adamw/median_ms"] > 0.0


def test_sizes_are_checked():
    with pytest.raises(InputError, match="--width: expected at least 1, found 0"):
        step_time.StepTime(width=0)
