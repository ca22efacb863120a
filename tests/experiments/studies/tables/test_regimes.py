"""The regime of items that the two tower ranks poorly, on drawn answers."""

import numpy as np
import pytest

from experiments.harness.figures import over_seeds_and_users
from experiments.retrieval.rivals import Answered
from experiments.studies.tables.brute import Brute
from experiments.studies.tables.compared import Row
from experiments.studies.tables.regimes import far_table

USERS = 400
FAR = np.arange(USERS) >= 300


def hits(near, far):
    found = np.zeros((2, USERS))
    found[:, :near] = 1
    found[:, 300 : 300 + far] = 1
    return found


def row(name, found, reason=""):
    return Row(name, "", reason, "", 1, [Answered(own, 1.0, 1.0, 1.0) for own in found])


BRUTE = {
    "XS": Brute(hits(200, 0), None, 1.0),
    "S": Brute(hits(200, 20), None, 1.0),
    "L": Brute(hits(200, 40), None, 1.0),
}


def test_only_users_whose_item_is_far_count():
    rows = [row("HSNN", hits(0, 30)), row("re-ranked", hits(300, 0))]
    rows.append(Row("faiss", "", "n/a: not installed", "", 0, []))
    (table,), figures = far_table(BRUTE, rows, FAR, budget=60)
    shown = {own[0]: own for own in (*table.baselines, *table.rows)}
    assert list(shown) == ["two tower", "MoNN S", "MoNN L", "HSNN", "re-ranked"]
    assert shown["HSNN"][2] == pytest.approx(0.75) and shown["re-ranked"][2] == 0
    assert shown["two tower"][2] is None
    mean, error = over_seeds_and_users(hits(0, 30)[:, FAR])
    assert shown["HSNN"][1] == f"{mean:.4f} ± {error:.4f}" and mean == pytest.approx(0.3)
    assert figures["far/users"] == 100 and figures["HSNN/far/recall@50"] == pytest.approx(0.3)
    assert "The 100 of 400 users" in table.note and "best 60" in table.note


def test_without_such_users_there_is_no_table():
    assert far_table(BRUTE, [], np.zeros(USERS, bool), budget=60) == ([], {})
