"""Long runs: what counts as growth, and that each notices what goes wrong. Faults: all kinds."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments import reliability
from experiments.harness.errors import InputError
from experiments.reliability import Reliability
from experiments.studies.faults.kinds import Counts
from experiments.studies.long_runs import index, serving, training
from experiments.studies.long_runs.memory import Memory, resident_mebibytes
from experiments.studies.long_runs.outcome import LongRun
from hsnn_jax import Retriever
from nxtpost_jax import Recommender


def sampled(mebibytes):
    count = len(mebibytes)
    shares = [(n + 1) / count for n in range(count)]
    return Memory(shares, list(mebibytes), [5] * (count - 1) + [7])


def test_growth_is_the_end_against_where_it_had_settled():
    warm = sampled([100, 300, 400, 401, 399, 400, 401, 400, 402, 400])
    assert warm.settled == pytest.approx(400, abs=1) and abs(warm.growth) < 2
    leak = sampled(range(100, 1100, 100))
    run = LongRun("steps", 10, 10, 0, 1.0, leak)
    assert leak.growth > 250 and reliability.grows(run) and "GREW" in reliability.said(run)
    assert not reliability.grows(LongRun("steps", 10, 10, 0, 1.0, warm))
    assert leak.more_arrays == 2
    assert 50 < resident_mebibytes() < 100_000


def test_copies_that_differ_have_other_digests():
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    where = NamedSharding(mesh, PartitionSpec())
    same = jax.device_put(np.ones(3, np.float32), where)
    parts = [jax.device_put(np.full(3, n, np.float32), d) for n, d in enumerate(mesh.devices)]
    different = jax.make_array_from_single_device_arrays((3,), where, parts)
    assert len(set(training.digests_of(same))) == 1
    assert len(set(training.digests_of(different))) == 2


@pytest.mark.long
def test_cycles_notice_an_item_that_was_lost_and_one_that_stayed(monkeypatch):
    monkeypatch.setattr(index, "ITEMS", 120)
    assert index.cycle_long(cycles=2, seed=0).wrong == 0
    add = Retriever.add
    monkeypatch.setattr(Retriever, "add", lambda self, v, ids: add(self, v[:1], ids[:1]))
    monkeypatch.setattr(Retriever, "remove", lambda self, ids: None)
    found = index.cycle_long(cycles=2, seed=0)
    assert (found.done, found.looks, found.wrong) == (2, 2, 2)


@pytest.fixture(scope="module")
def fitted():
    return serving.fitted(0)


@pytest.fixture
def recommender(fitted):
    for user in range(serving.USERS):
        fitted.forget_user(user)
    return fitted


@pytest.mark.long
def test_updates_notice_a_stale_vector(monkeypatch, recommender):
    monkeypatch.setattr(serving, "fitted", lambda seed: recommender)
    assert serving.update_long(updates=3, seed=0).wrong == 0
    stale = SimpleNamespace(vector=None)
    update = Recommender.update

    def late(self, user, item):
        now = update(self, user, item)
        stale.vector, given = now, now if stale.vector is None else stale.vector
        return given

    monkeypatch.setattr(Recommender, "update", late)
    assert serving.update_long(updates=6, seed=1).wrong > 0


@pytest.mark.long
def test_threads_notice_an_item_that_comes_back(monkeypatch, recommender):
    monkeypatch.setattr(serving, "fitted", lambda seed: recommender)
    found = serving.ask_long(seconds=1.0, seed=0)
    assert found.wrong == 0 and found.done > 0
    recommend = Recommender.recommend

    def twice(self, history, k):
        answer = recommend(self, history, k)
        return dataclasses.replace(answer, ids=np.repeat(answer.ids[:, :1], k, axis=1))

    monkeypatch.setattr(Recommender, "recommend", twice)
    assert serving.ask_long(seconds=0.5, seed=0).wrong > 0


@pytest.mark.long
def test_the_command_shows_all_runs(tmp_path):
    out = tmp_path / "run"
    reliability.main(["--preset", "smoke", "--out", str(out)])
    summary = json.loads((out / "summary.json").read_text())
    for name in ("kill -9", "kill -9 in a save"):
        assert summary["metrics"][f"{name}/survived"] == summary["metrics"][f"{name}/tried"] == 1
    assert "| kill -9 | 1 | 1 |" in (out / "report.md").read_text()
    for name in ("training steps", "updates of users", "cycles of items", "answers beside changes"):
        assert summary["metrics"][f"{name}/wrong"] == 0
        assert summary["metrics"][f"{name}/looks"] > 0
        assert summary["baselines"][f"{name}/settled_mebibytes"] > 0


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_one_fault_of_each_kind_is_survived(tmp_path):
    out = tmp_path / "run"
    once = [word for field in dataclasses.fields(Counts) for word in (f"--{field.name}", "1")]
    reliability.main(["--parts", "faults", *once, "--kills", "2", "--out", str(out)])
    metrics = json.loads((out / "summary.json").read_text())["metrics"]
    tried = {name.removesuffix("/tried") for name in metrics if name.endswith("/tried")}
    assert len(tried) == 22
    assert {name for name in tried if not metrics[f"{name}/survived"]} == set()
    assert not (out / "faults").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ("fault",)}, "--parts: expected one or more of faults, long, found fault"),
        ({"parts": ()}, "--parts: expected one or more of faults, long, found none"),
        ({"kills": -1}, "--kills: expected at least 0, found -1"),
        (
            {"coordinator": "here:1", "num_processes": 2, "process_id": 0},
            "--parts: expected long alone in several processes, found faults",
        ),
    ],
)
def test_parts_that_are_none(options, message):
    with pytest.raises(InputError, match=message):
        Reliability(**options)
