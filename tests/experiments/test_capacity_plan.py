"""The command: its tables from tiny models, its options, and what it refuses."""

import json

import pytest

from experiments import capacity_plan
from experiments.harness.errors import InputError


@pytest.mark.long
def test_the_smoke_preset_compiles_computes_and_compares(tmp_path):
    out = tmp_path / "run"
    capacity_plan.main(["--preset", "smoke", "--out", str(out)])
    summary = json.loads((out / "summary.json").read_text())
    metrics, baselines = summary["metrics"], summary["baselines"]
    prefix = "Transformer_1.3B_fsdp"
    assert baselines[f"{prefix}/4/compiled"] == metrics[f"{prefix}/8/compiled"] == 1
    assert metrics[f"{prefix}/16/compiled"] == 0
    assert metrics[f"{prefix}/16/parameter_bytes"] < metrics[f"{prefix}/8/parameter_bytes"]
    assert metrics["worst_deviation"] <= capacity_plan.TOLERANCE
    assert metrics["worst_deviation_temporary"] is None
    whole, parts = (
        baselines[f"layouts/digits-adamw-{layout}/parameter_bytes"]
        for layout in ("replicated", "fsdp")
    )
    assert parts < whole / 2
    report = (out / "report.md").read_text()
    for title in ("Least time of a step", "deviation in %", "What --layout takes", "computed"):
        assert title in report


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "gpt"}, r"--model: expected some of transformer-1.3b, .* found gpt"),
        ({"layouts": "mnist"}, r"--layouts: expected some of .* found mnist"),
        ({"devices": "8,x"}, r"--devices: expected numbers from 1 to 4096, .* found 8,x"),
        ({"devices": "0"}, r"--devices: expected numbers from 1 to 4096, .* found 0"),
        ({"compiled": 0}, r"--compiled: expected at least 1, found 0"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        capacity_plan.Plan(**options)


def test_devices_are_sorted_and_fake_ones_made_for_what_is_compiled_alone():
    plan = capacity_plan.Plan(devices="512,8,64,8", check=16)
    assert plan.counts == [8, 64, 512]
    assert capacity_plan.needed(plan) == 64
    assert capacity_plan.needed(capacity_plan.Plan(devices="8,64", compiled=8, check=None)) == 8
