"""The profile times the parts that a step is made of."""

import json

import pytest

from experiments import step_profile
from experiments.harness.errors import InputError


def test_command_writes_parts_beside_the_whole(tmp_path, monkeypatch):
    shapes = {f"w{i}": (24, 16) for i in range(3)} | {"b": (16,)}
    monkeypatch.setitem(step_profile.PARAMETER_SETS, "layers200", lambda: shapes)
    monkeypatch.setattr(step_profile, "SIDES", (32, 64))
    monkeypatch.setattr(step_profile, "PARAMETERS", 2**13)
    out = tmp_path / "run"
    step_profile.main(["--preset", "smoke", "--out", str(out), "--devices", "1"])
    summary = json.loads((out / "summary.json").read_text())
    parts = {k.split("/")[1]: v for k, v in summary["metrics"].items() if k.startswith("layers")}
    (whole,) = summary["baselines"].values()
    assert sum(parts.values()) == pytest.approx(whole)
    assert {"Gram products", "apply the roots", "the rest"} <= set(parts)
    assert summary["metrics"]["products/64/ms"] > 0


def test_an_unknown_set_is_refused():
    with pytest.raises(InputError, match=r"--sets: expected some of .*, found vgg"):
        step_profile.StepProfile(sets="vgg")
