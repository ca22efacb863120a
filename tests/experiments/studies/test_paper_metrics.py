"""Recall within batches of users, counted one by one."""

import numpy as np
import pytest

from experiments.studies import paper_metrics
from experiments.studies.paper_metrics import batch_recalls


def test_batch_recall_is_the_slow_one(monkeypatch):
    monkeypatch.setattr(paper_metrics, "BATCH", 30)
    draw = np.random.default_rng(0)
    labels = draw.integers(-1, 40, (60, 2))
    users, items = draw.normal(size=(60, 3)), draw.normal(size=(41, 3))

    def scores(rows, of):
        return (users[rows] @ items[of].T).astype(np.float32)

    found = batch_recalls(scores, labels, seed=4)
    order = np.random.default_rng(4).permutation(60)
    hits = {0: [], 1: []}
    for rows in (order[:30], order[30:]):
        for j in range(2):
            for row in rows:
                if labels[row, j] < 0:
                    continue
                rivals = {i for i in labels[rows, j] if i >= 0} - {labels[row, j]}
                own = users[row] @ items[labels[row, j]]
                hits[j].append(sum(users[row] @ items[i] >= own for i in rivals) < 10)
    assert found["batch_recall@10"] == pytest.approx(np.mean(hits[0]))
    assert found["batch_recall@10 of m"] == pytest.approx((np.mean(hits[0]) + np.mean(hits[1])) / 2)
