"""Tables of items and records: columns of plain values, None where there is none."""

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from nxtpost_jax.events.item_tables import names_of, of_records, of_table

TABLE = {
    "id": ["a", "b", "c"],
    "title": ["A storm", None, " "],
    "price": [3.5, np.nan, 2.0],
    "genres": [["x", "y"], [], None],
    "stock": [1, None, 3],
}
READ = {
    "title": ["A storm", None, None],
    "price": [3.5, None, 2.0],
    "genres": [["x", "y"], None, None],
    "stock": [1, None, 3],
}


def plain(columns):
    """numpy's and pandas' lists as Python's."""
    return {
        name: [v.tolist() if isinstance(v, np.ndarray) else v for v in values]
        for name, values in columns.items()
    }


@pytest.mark.parametrize("make", [dict, pd.DataFrame, pl.DataFrame, pa.table])
def test_any_table_gives_the_same_columns(make):
    table = make(TABLE | {"price": [3.5, None, 2.0]} if make is pa.table else TABLE)
    assert names_of(table) == list(TABLE)
    ids, columns = of_table(table, id_column="id")
    assert ids == ["a", "b", "c"]
    assert plain(columns) == READ


def test_pandas_has_several_words_for_none():
    frame = pd.DataFrame({"id": [3, 4], "n": [1, None], "s": ["a", None], "c": ["u", None]})
    frame = frame.astype({"n": "Int64", "s": "string", "c": "category"})
    nothing = {"n": [1, None], "s": ["a", None], "c": ["u", None]}
    assert of_table(frame, id_column="id") == ([3, 4], nothing)
    assert of_table(dict(frame.items()), id_column="id") == ([3, 4], nothing)


def test_columns_may_be_arrays():
    dates = np.array(["2024-01-01", "2024-01-02"], "M8[ns]")
    table = {"id": np.arange(2), "vector": np.ones((2, 3)), "sets": np.ones((2, 4, 3)), "at": dates}
    ids, columns = of_table(table, id_column="id")
    assert ids == [0, 1]
    assert [np.shape(v) for v in columns["vector"]] == [(3,)] * 2
    assert [np.shape(v) for v in columns["sets"]] == [(4, 3)] * 2
    assert columns["at"] == list(dates)  # no whole numbers


def test_columns_called_by_numbers():
    frame = pd.DataFrame([["a", 1.0], ["b", 2.0]])
    assert of_table(frame, id_column="0") == (["a", "b"], {"1": [1.0, 2.0]})


def test_records_need_not_have_all():
    records = [{"title": "x", "price": 3}, {}, None, {"genres": "a|b", "title": ""}]
    assert of_records(records, ["p", "q", "r", "s"]) == {
        "title": ["x", None, None, None],
        "price": [3, None, None, None],
        "genres": [None, None, None, "a|b"],
    }
    with pytest.raises(ValueError, match="a record for each item, found 'x' of item 'q'"):
        of_records([{}, "x"], ["p", "q"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": []}, "at least one item, found an empty table"),
        ({"id": [1, 2], "title": ["a"]}, "2 values in 'title', one per item, found 1"),
        ({"id": [1], "title": "a"}, "a column in 'title', found 'a'"),
        ({"id": [1], "1": ["a"], 1: ["b"]}, "one column '1', found several"),
        (pl.LazyFrame({"id": [1]}), r"a DataFrame in memory .* or a record per item, found Lazy"),
        (pd.DataFrame({"id": []}), "at least one item, found an empty table"),
    ],
)
def test_a_broken_table_is_refused(table, message):
    with pytest.raises(ValueError, match=f"content: expected {message}"):
        of_table(table, id_column="id")


def test_a_missing_id_is_named():
    with pytest.raises(ValueError, match="id: expected a value in every row, found none in row 1"):
        of_table(pd.DataFrame({"id": ["a", None], "x": [1, 2]}), id_column="id")


def test_dates_stay_dates():
    frame = pl.DataFrame({"id": [1], "at": [datetime.date(2024, 1, 2)]})
    assert of_table(frame, id_column="id")[1] == {"at": [datetime.date(2024, 1, 2)]}
