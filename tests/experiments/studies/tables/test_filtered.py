"""The regime of filters that leave a hundredth of the items."""

import numpy as np
import pytest

from experiments.retrieval.rivals import Answered, Asked
from experiments.retrieval.searchers import Requests
from experiments.studies.tables.compared import Row
from experiments.studies.tables.filtered import filtered, mean_left, stands_filters
from experiments.studies.tables.joint import joint_name
from experiments.studies.tables.regimes import filtered_table

ITEMS = 700


def asked(wanted, rows, seed):
    rng = np.random.default_rng(seed)
    met = np.stack([rng.choice(ITEMS, 200, replace=False) for _ in range(rows)]).astype(np.int32)
    met[np.isin(met, wanted)] = -1
    return Asked(Requests({"batch": np.arange(rows)}, met), np.asarray(wanted, np.int32))


def test_a_filter_leaves_a_hundredth_of_what_was_not_met_and_what_comes_next():
    before = [asked([3, 4, 5, 6], 4, 0), asked([7, 8], 4, 1)]
    few = filtered(before, num_items=ITEMS)
    everything = set(range(ITEMS))
    for old, new in zip(before, few, strict=True):
        np.testing.assert_array_equal(old.requests.users["batch"], new.requests.users["batch"])
        for row in range(4):
            left = set(new.requests.allowed[row].tolist()) - {-1}
            gone = set(new.requests.exclude[row].tolist()) - {-1}
            assert left | gone == everything and not left & gone
            assert not left & set(old.requests.exclude[row].tolist())
            assert old.wanted[min(row, len(old.wanted) - 1)] in left
    counts = [(part.requests.allowed >= 0).sum(1) for part in few]
    assert 2 < np.mean(counts) < 12  # of 500 a hundredth, and one
    assert mean_left(few) == pytest.approx(np.mean([*counts[0], *counts[1][:2]]))
    again = filtered(before, num_items=ITEMS)
    np.testing.assert_array_equal(again[1].requests.allowed, few[1].requests.allowed)


def test_the_table_has_the_share_of_the_largest_gain_and_the_price():
    def row(name, hits, flops):
        found = np.zeros((2, 400))
        found[:, :hits] = 1
        return Row(name, "", "", "", 1, [Answered(own, 9.0, flops, 1.0) for own in found])

    together = joint_name(("L", "S"))
    rows = [row("two tower", 100, 5.0), row("MoNN L", 200, 50.0), row(together, 180, 20.0)]
    table, figures = filtered_table(rows, num_items=ITEMS)
    assert [cells[0] for cells in table.baselines] == ["two tower"]
    shown = {cells[0]: cells for cells in table.rows}
    assert shown["MoNN L"][3] == 1 and shown[together][3] == pytest.approx(0.8)
    assert shown[together][4:] == [9.0, 20.0]
    assert figures[f"{together}/filtered/recall@5"] == pytest.approx(0.45)


def test_what_needs_more_than_is_left_to_find_anything_is_not_measured():
    assert stands_filters(joint_name(("L", "S"))) and stands_filters("item-KNN")
    assert not stands_filters("faiss IVF") and not stands_filters("two tower re-ranked")
