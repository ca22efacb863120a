"""Table 1 on drawn answers: shares, both denominators, and rows that are not there."""

import numpy as np
import pytest

from experiments.retrieval.rivals import Answered
from experiments.studies.tables.brute import Brute
from experiments.studies.tables.compared import Row, slug
from experiments.studies.tables.table_one import COLUMNS, found_in, table_one

USERS = 4000


def hits(share):
    """The first users are found by every seed."""
    found = np.zeros((2, USERS))
    found[:, : round(share * USERS)] = 1
    return found


def answers(share):
    return [Answered(own, 10.0, 500.0, 0.1) for own in hits(share)]


BRUTE = {
    "XS": Brute(hits(0.3), None, 100.0),
    "S": Brute(hits(0.4), None, 1000.0),
    "L": Brute(hits(0.5), None, 9000.0),
}
COSTS = {name: Answered(own.hits[0], 100.0, own.flops, 1.0) for name, own in BRUTE.items()}


def table_of(brute, *rows):
    return table_one(brute, COSTS, rows, num_items=100, trials=2)


def test_shares_are_of_the_gain_of_the_rows_own_model_and_of_the_best():
    row = Row("HSNN (S, XS)", "MoNN S", "", "8 nodes", 2, answers(0.38))
    table, figures = table_of(BRUTE, row)
    assert figures["HSNN (S, XS)/kept_of_own"] == pytest.approx(0.8)
    assert figures["HSNN (S, XS)/kept_of_best"] == pytest.approx(0.4)
    assert figures["HSNN (S, XS)/gain"] == pytest.approx(0.08)
    cells = dict(zip(COLUMNS, table.rows[-1]))
    assert cells["items scored"] == 0.1 and cells["chosen of"] == "8 nodes of 2"
    assert "n/a: no negatives were observed" in cells.values()
    assert figures["MoNN L/kept_of_own"] == figures["MoNN L/kept_of_best"] == 1


def test_no_share_is_printed_of_a_gain_within_two_errors():
    rng = np.random.default_rng(0)
    noise = [(rng.random((2, USERS)) < 0.3).astype(float) for _ in BRUTE]
    level = {name: Brute(own, None, 1.0) for name, own in zip(BRUTE, noise)}
    row = Row("HSNN (S, XS)", "MoNN S", "", "", 1, answers(0.29))
    _, figures = table_of(level, row)
    gains = {name: figures[f"{name}/gain"] / figures[f"{name}/gain_se"] for name in ("MoNN S",)}
    assert abs(gains["MoNN S"]) < 2
    assert not any("/kept" in name for name in figures if "S" in name)


def test_a_row_that_the_data_do_not_allow_says_why():
    table, figures = table_of(BRUTE, Row("faiss IVF", "", "n/a: faiss is not installed", "", 0, []))
    assert table.rows[-1][:2] == ["faiss IVF", "n/a: faiss is not installed"]
    assert not any(name.startswith("faiss") for name in figures)


def test_the_best_hsnn_is_held_against_rivals_of_no_more_operations():
    def row(name, share, flops):
        own = [answered._replace(flops=flops) for answered in answers(share)]
        return Row(name, "MoNN L", "", "", 1, own)

    ours = row("HSNN (MoNN L, MoNN S), trained together", 0.4, 500.0)
    weaker = row("HSNN (MoNN S, two tower), trained together", 0.3, 100.0)
    others = [row("dear", 0.5, 501.0), row("cheap", 0.35, 400.0), row("sums", 0.38, np.nan)]
    assert found_in([weaker, ours, *others]) == (
        "HSNN (MoNN L, MoNN S), trained together finds 0.4000 of what users take next; of its "
        "rivals that take no more operations sums finds most, 0.3800: a difference of +0.0200 ± "
        "0.0022."
    )
    assert found_in(others) == ""
    assert found_in([ours, others[0]]).endswith("no rival takes as few operations.")


def test_a_file_may_have_a_rivals_name():
    assert slug("HSNN (MoNN L, MoNN S), w Markov") == "HSNN-MoNN-L-MoNN-S-w-Markov"
