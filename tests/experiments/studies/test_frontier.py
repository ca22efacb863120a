"""Task frontier of experiments.hsnn."""

import json

import numpy as np
import pytest

from experiments import hsnn
from experiments.data.datasets import read
from experiments.retrieval.residual_monn import MoNNTraining
from experiments.studies import frontier as hsnn_frontier
from experiments.studies.frontier import lists_of, train_monn
from experiments.tasks.graph_towers import (
    spectral_towers,
)
from experiments.tasks.neighbours import FOLDS
from experiments.tasks.pairs import pose_pairs


def test_the_command_leaves_a_run_folder(kinds, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    flags = [
        "--task",
        "frontier",
        "--baselines",
        "faiss",
        "--preset",
        "smoke",
        "--devices",
        "1",
        "--data",
        str(kinds),
    ]
    hsnn.main([*flags, "--out", str(out), "--frontier.nodes", "24", "--monn.sizes", "S"])
    summary = json.loads((out / "summary.json").read_text())
    metrics = summary["metrics"]
    assert metrics["dot/recall@20"] > 0.5
    assert 0 < metrics["dot, IVF/items_scored=10%/recall"] <= 1
    assert any(name.startswith("MoNN S, HSNN LTI, dot routes/") for name in metrics)
    assert metrics["MoNN S/flops"] > metrics["dot/flops"]
    text = (out / "report.md").read_text()
    assert "At equal cost" in text
    # What is measured is read again, not measured again: the same figures, speeds included.
    for name in ("report.md", "summary.json"):
        (out / name).unlink()
    hsnn.main(["--resume", str(out)])
    assert json.loads((out / "summary.json").read_text())["metrics"] == metrics
    assert str(kinds) not in text
    assert (out / "report.png").stat().st_size > 10_000


def test_a_training_batch_hides_the_item_and_the_users_own_fold(kinds, monkeypatch):
    problem = pose_pairs(read(kinds), seed=0)
    towers, lists = spectral_towers(problem, 6, seed=0), lists_of(problem)
    asked = {}

    def kept(run, scorer, *, draw, lists, **options):
        rng = np.random.default_rng(0)
        asked.update(batches=[draw(rng) for _ in range(2)], lists=lists)
        raise StopIteration

    monkeypatch.setattr(hsnn_frontier, "train_residual", kept)
    config = MoNNTraining(batch_size=32)
    with pytest.raises(StopIteration):
        train_monn(
            None,
            problem,
            towers=towers,
            lists=lists,
            config=config,
            size="S",
            temperature=0.4,
            seed=0,
            mesh=None,
        )
    assert asked["lists"] is lists.train
    rng = np.random.default_rng(0)
    drawn = [problem.train.draw(rng, size=32) for _ in range(2)]
    for batch, pairs in zip(asked["batches"], drawn, strict=True):
        np.testing.assert_array_equal(batch["fold"], pairs["users"] % FOLDS)
        rows = zip(pairs["users"], pairs["items"], batch["met"], strict=True)
        for user, item, met in rows:
            own = set(problem.train.items[problem.train.users == user].tolist())
            assert set(met[met >= 0].tolist()) == own - {item}
