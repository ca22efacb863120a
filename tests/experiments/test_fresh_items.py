"""Fresh items: cold is cold in training, histories and selection; the command reports it."""

import json

import numpy as np
import pytest

from experiments import fresh_items
from experiments.data.datasets import read
from experiments.harness.errors import InputError
from nxtpost_jax import NxtPostConfig


@pytest.fixture
def folder(tmp_path):
    """Two kinds of users, each buying items of a kind that its text tells; items come with time."""
    rng = np.random.default_rng(0)
    rows, items = ["user,item,timestamp"], 120
    for user in range(160):
        seen = set()
        for time in rng.integers(0, 6000) + 600 * np.arange(9):
            newest = 8 + int(time / 11400 * (items - 8))
            item = 2 * int(rng.integers(0, newest // 2)) + user % 2
            if item not in seen:
                rows.append(f"u{user},i{item},{time}")
            seen.add(item)
    (tmp_path / "interactions.csv").write_text("\n".join(rows) + "\n")
    texts = [f"i{i},{('red apple', 'blue sky')[i % 2]} shade{i // 2 % 7}" for i in range(items)]
    (tmp_path / "items.csv").write_text("\n".join(["id,text", *texts]) + "\n")
    return tmp_path


@pytest.mark.parametrize("split", ["items", "time"])
def test_cold_items_are_never_seen_before_the_test(folder, split):
    options = fresh_items.FreshItems(split=split, content_dim=8)
    fresh = fresh_items.pose_fresh(read(folder), options)
    training = set(fresh.problem.split.train.items.tolist())
    for parts in (fresh.validation, fresh.test):
        assert not training & set(parts.cold.targets.tolist())
        assert not set(parts.warm.targets.tolist()) - training
    assert not training & set(np.flatnonzero(fresh.cold).tolist())
    assert fresh.cold[fresh.test.cold.targets].all()
    if split == "items":
        assert fresh.cold.sum() == round(0.1 * len(fresh.cold))
        assert not fresh.cold[fresh.validation.cold.targets].any()
        for parts in (fresh.validation, fresh.test):
            for queries in parts:
                assert not fresh.cold[queries.histories.items].any()


def test_live_requests_know_what_was_before_their_day_alone(folder):
    options = fresh_items.FreshItems(
        split="time", live=True, content_dim=8, model=NxtPostConfig(trend_step=500.0)
    )
    log = read(folder)
    fresh = fresh_items.pose_fresh(log, options)
    when = {(u, i): t for u, i, t in zip(log.users, log.items, log.timestamps)}
    for queries in (*fresh.validation, *fresh.test):
        asked = fresh.asked(queries)["query_times"]
        targets = np.array([when[pair] for pair in zip(queries.users, queries.targets)])
        assert ((asked <= targets) & (targets < asked + 500)).all()
        assert (asked % 500 == 0).all()


def test_the_command_counts_live(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    arguments = ["--data", str(folder), "--preset", "smoke", "--devices", "1", "--out", str(out)]
    arguments += ["--optimizer", "adamw", "--split", "time", "--live", "--models", "trends"]
    fresh_items.main([*arguments, "--model.trend-step", "500"])
    summary = json.loads((out / "summary.json").read_text())
    assert "trends/0/cold/hr@10" in summary["metrics"]
    # That of training alone knows no cold item.
    assert summary["baselines"]["popularity_7d/cold_only/hr@10"] > 0
    assert "what happened before it is known" in (out / "report.md").read_text()


@pytest.mark.long
def test_command_reports_warm_and_cold(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    arguments = ["--data", str(folder), "--preset", "smoke", "--devices", "1", "--out", str(out)]
    arguments += ["--optimizer", "adamw"]
    training = ["--epochs", "30", "--evaluate-every", "10", "--adamw-rate", "0.02"]
    fresh_items.main([*arguments, *training, "--models", "content"])
    summary = json.loads((out / "summary.json").read_text())
    assert "content_knn/cold_only/hr@10" in summary["baselines"]
    assert "content/0/harmonic" in summary["metrics"]
    # The content of a cold item tells its kind, so it ranks above the half of the other kind:
    # at best (1 + 1/2 + ... + 1/6) / 6 = .41 among 12, against .26 of a random order.
    assert summary["metrics"]["content/0/cold_only/mrr"] > 0.26
    assert "Fresh items" in (out / "report.md").read_text()


def test_data_without_content_or_times_is_refused(tmp_path):
    rows = [f"u{u},i{(u + t) % 20},{t}" for u in range(30) for t in range(6)]
    (tmp_path / "interactions.csv").write_text("\n".join(["user,item,timestamp", *rows]) + "\n")
    with pytest.raises(InputError, match="expected items with content, found none"):
        fresh_items.pose_fresh(read(tmp_path), fresh_items.FreshItems())
    expected = "--models: expected some of both, content, id, trends, found x"
    with pytest.raises(InputError, match=expected):
        fresh_items.FreshItems(models=("x",))
    with pytest.raises(InputError, match="--live: expected --split time beside it, found items"):
        fresh_items.FreshItems(live=True)
