"""The table of bytes and operations is read off the compiled programs."""

import json

import pytest

from experiments import shampoo_scaling
from experiments.harness.errors import InputError
from experiments.loop import collectives

TEXT = """
  %all-gather.1 = f32[8,100]{1,0} all-gather(%x), channel_id=1
  %y = bf16[16]{0} all-gather(%z), channel_id=2
  %r = f32[4]{0} all-reduce(%w)
  %t = (pred[3]{0}, s64[2]{0}) all-reduce(%v, %u)
"""


def test_collectives_and_bytes_are_parsed():
    assert collectives.count_collectives(TEXT) == 4
    assert collectives.collective_bytes(TEXT, ["all-gather"]) == 8 * 100 * 4 + 16 * 2
    assert collectives.collective_bytes(TEXT, ["all-reduce"]) == 4 * 4 + 3 + 2 * 8


def test_two_devices_share_the_state_by_one_all_gather(tmp_path):
    out = tmp_path / "run"
    shampoo_scaling.main(["--preset", "smoke", "--out", str(out)])
    summary = json.loads((out / "summary.json").read_text())
    one, two = summary["baselines"], summary["metrics"]
    assert one["sequences/1/collectives"] == 0
    assert two["sequences/2/collectives"] == 1
    assert two["sequences/2/state_bytes"] <= 1.3 / 2 * one["sequences/1/state_bytes"]
    assert two["sequences/2/operations"] < one["sequences/1/operations"]
    assert two["sequences/2/bytes_received"] > 0


def test_unknown_sets_are_refused():
    with pytest.raises(InputError, match=r"--sets: expected some of .* found vgg"):
        shampoo_scaling.Scaling(sets="vgg")
