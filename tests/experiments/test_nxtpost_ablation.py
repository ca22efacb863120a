"""The ablations: each variant trains what it says."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import nxtpost_ablation
from experiments.data.interactions import Interactions
from experiments.harness.errors import InputError
from experiments.nxtpost_ablation import AXES, Ablation, apply, variants_of
from experiments.tasks.next_item import pose
from nxtpost_jax import NxtPostConfig, Objective
from tests.experiments.test_nxtpost import write_cycles


def test_every_variant_changes_the_default_and_only_its_axis(problem_with_all):
    options = Ablation()
    base = (options.model, options.objective)
    variants = variants_of(problem_with_all, options)
    assert len(variants) == 1 + sum(map(len, AXES.values()))
    seen = set()
    for name, (_, change) in variants.items():
        problem, config, changed = apply(change, problem_with_all, options)
        key = (config, changed.objective, problem.content is None)
        assert key not in seen, name
        seen.add(key)
        assert (config == base[0]) or change.model, name
        assert (changed.objective == base[1]) or change.objective, name


def test_what_the_options_choose_already_is_no_variant(problem_with_all):
    options = Ablation(
        model=NxtPostConfig.default(max_len=50), objective=Objective(num_negatives=64)
    )
    left_out = set(variants_of(problem_with_all, Ablation())) - set(
        variants_of(problem_with_all, options)
    )
    assert left_out == {"50 events", "64 negatives"}


def test_variants_that_the_data_does_not_allow_are_left_out(problem_with_all):
    split = problem_with_all.split
    train = dataclasses.replace(split.train, actions=None, times=None)
    bare = dataclasses.replace(
        problem_with_all, content=None, split=dataclasses.replace(split, train=train)
    )
    missing = set(variants_of(problem_with_all, Ablation())) - set(variants_of(bare, Ablation()))
    of_times = {"time concatenated", "relative times", "relative both", "trends"}
    assert missing == of_times | {"actions embedded", "content alone", "id alone"}


@pytest.fixture(scope="module")
def problem_with_all():
    users, t = np.repeat(np.arange(9), 8), np.tile(np.arange(8), 9)
    return pose(
        Interactions(
            name="drawn",
            sha256="0" * 16,
            user_ids=np.arange(9),
            item_ids=np.arange(12),
            users=users.astype(np.int32),
            items=((users + t) % 12).astype(np.int32),
            timestamps=t * 60.0,
            weights=(1.0 + t % 5).astype(np.float32),
            item_content=np.eye(12, dtype=np.float32),
        ),
        content_dim=8,
    )


def test_ratings_are_actions(problem_with_all):
    actions = problem_with_all.split.train.actions
    assert actions is not None and set(actions) == {0, 1, 2, 3, 4}


@pytest.mark.long
def test_command_reports_variants_and_baselines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(AXES, "losses", {"long": AXES["losses"]["long"]})
    write_cycles(tmp_path)
    out = tmp_path / "run"
    arguments = ["--data", str(tmp_path), "--preset", "smoke", "--devices", "1", "--out", str(out)]
    arguments += ["--optimizer", "adamw"]
    nxtpost_ablation.main([*arguments, "--held-out", "2"])
    summary = json.loads((out / "summary.json").read_text())
    assert {key.split("/")[0] for key in summary["metrics"]} == {"default", "long"}
    assert 0 <= summary["baselines"]["wide_deep/batch_recall@10"] <= 1
    assert summary["metrics"]["default/0/batch_recall@10"] > 0
    assert "the last 2 events are test" in summary["protocol"]["split"]
    assert (out / "report.png").exists()


def test_options_out_of_range_are_refused():
    with pytest.raises(InputError, match=r"--axes: expected some of losses, .*, found weather"):
        Ablation(axes="losses,weather")
    with pytest.raises(InputError, match="--held-out: expected at least 1, found 0"):
        Ablation(held_out=0)
