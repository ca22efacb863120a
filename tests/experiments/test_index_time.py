"""Searches timed beside others at one recall."""

import json

import numpy as np
import pytest

from experiments import index_time
from experiments.bench.adds import time_adds
from experiments.bench.indexes import INDEXES, Built, knob_for, recall_at
from experiments.data.source_lines import source_vectors
from experiments.harness.errors import InputError
from hsnn_jax.serving import side


def counting(found):
    """An index that finds so many of the exact ids 0, 1, ... at each knob."""

    def search(users, k, knob):
        ids = np.where(np.arange(k) < found[knob], np.arange(k), 1000 + np.arange(k))
        return np.tile(ids, (len(users), 1))

    return Built(search, sorted(found), 0)


def test_the_least_knob_that_suffices_is_taken():
    users, exact = np.zeros((3, 2), np.float32), np.tile(np.arange(10), (3, 1))
    index = counting({1: 2, 2: 5, 4: 9, 8: 10, 16: 10})
    for recall, knob in ((0.1, 1), (0.5, 2), (0.9, 4), (0.95, 8), (1.0, 8)):
        assert knob_for(index, users, exact, recall=recall) == knob
    assert recall_at(index, users, exact, knob=4) == pytest.approx(0.9)
    assert knob_for(counting({1: 2, 3: 4}), users, exact, recall=0.9) == 3


@pytest.mark.parametrize("name", ["HSNN", "faiss IVF", "faiss HNSW", "hnswlib", "usearch"])
def test_every_index_finds_the_nearest(name):
    module = {"faiss IVF": "faiss", "faiss HNSW": "faiss"}.get(name, name)
    if name != "HSNN":
        pytest.importorskip(module, reason="the extra `bench` is not installed")
    items = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
    users = np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)
    exact = index_time.exact_ids(items, users, 5)
    built = INDEXES[name](items, slack=1.5, seed=0)
    assert recall_at(built, users, exact, knob=built.knobs[-1]) >= 0.9
    assert built.bytes >= items.nbytes


def test_snippets_are_unit_vectors_with_ties():
    vectors = source_vectors(2000, width=8, seed=0)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1).max(), 1, rtol=1e-5)
    assert len(np.unique(np.round(vectors, 5), axis=0)) < 2000


@pytest.mark.long
def test_adds_that_fill_the_lists_are_timed_apart(monkeypatch):
    monkeypatch.setattr(side, "SIZE", 4)
    items = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    retriever = INDEXES["HSNN"](items, slack=2.0, seed=0).retriever
    few = time_adds(retriever, items[:4], items[:2], k=5, budget=50)
    assert sorted(few) == ["add_ms", "add_p99_ms"]
    found = time_adds(retriever, items[:9], items[:2], k=5, budget=50)
    assert sorted(found) == ["add_ms", "add_p99_ms", "merge_ms"]
    assert 0 < found["add_ms"] <= found["add_p99_ms"]
    assert retriever.stats()["items"] == 313


@pytest.mark.slow
def test_a_run_leaves_a_row_per_index(tmp_path):
    pytest.importorskip("faiss", reason="the extra `bench` is not installed")
    out = tmp_path / "run"
    index_time.main(["--preset", "smoke", "--out", str(out), "--devices", "1"])
    summary = json.loads((out / "summary.json").read_text())
    for column in (
        "recall",
        "us_1",
        "us_256",
        "us_512",
        "build_s",
        "add_ms",
        "add_p99_ms",
        "bytes_ratio",
    ):
        assert summary["metrics"][f"simulated/HSNN/{column}"] > 0
    assert summary["metrics"]["simulated/HSNN/recall"] >= 0.95


def test_unknown_rivals_are_refused():
    with pytest.raises(InputError, match="--rivals: expected HSNN, faiss IVF"):
        index_time.IndexTime(rivals="annoy")
