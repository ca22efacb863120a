"""Logs in parquet files: the columns of a csv, the same record; what cannot be read is said."""

import datetime
import sys

import numpy as np
import pytest

from experiments.data import parquet_log
from experiments.data.datasets import read
from experiments.harness.errors import InputError
from tests.experiments.data.folders import write

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

FIRST, LATER = 1672531200, 1672617600  # 2023-01-01 and the day after
DAYS = [datetime.datetime(2023, 1, 2), datetime.datetime(2023, 1, 1)]
LOG = {"visitorid": [7, 7], "itemid": ["b", "a"], "timestamp": [LATER * 1000, FIRST * 1000]}
TABLES = {
    "milliseconds": LOG,
    "moments": LOG | {"timestamp": DAYS},
    "moments with a zone": LOG | {"timestamp": [d.replace(tzinfo=datetime.UTC) for d in DAYS]},
    "texts": LOG | {"timestamp": ["2023-01-02", "2023-01-01"]},
    "categories": LOG | {"itemid": pa.array(["b", "a"]).dictionary_encode()},
    "more columns": {"price": [[1.0], [2.0]], **LOG, "title": ["x", None]},
}


def parquet(table):
    stream = pa.BufferOutputStream()
    pq.write_table(pa.table(table), stream)
    return stream.getvalue().to_pybytes()


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("file", ["interactions_parquet", "mine_parquet"])
def test_a_log_is_read_as_from_text(tmp_path, name, file):
    record = read(write(tmp_path / "log", **{file: parquet(TABLES[name])}))
    assert record.user_ids.tolist() == [7]
    assert record.item_ids[record.items].tolist() == ["a", "b"]
    assert record.timestamps.tolist() == [FIRST, LATER]
    assert read(tmp_path / "log" / file.replace("_", ".")).n_events == 2


def test_actions_weights_and_named_columns(tmp_path):
    table = {
        "who": [1, 2],
        "what": [3, 3],
        "when": [5, 6],
        "event": ["buy", "view"],
        "stars": [4, 5],
    }
    path = write(tmp_path / "log", mine_parquet=parquet(table)) / "mine.parquet"
    named = {"user": "who", "item": "what", "time": "when"}
    record = read(path, named)
    assert [record.action_names[action] for action in record.actions] == ["buy", "view"]
    assert record.weights is None and "stars is left out" in record.notes[0]
    assert read(path, named | {"weight": "stars"}).weights.tolist() == [4, 5]


def test_ids_of_64_bits_stay(tmp_path):
    table = LOG | {"visitorid": np.array([2**62 + 1, 2**62])}
    record = read(write(tmp_path / "log", mine_parquet=parquet(table)))
    assert record.user_ids.tolist() == [2**62, 2**62 + 1]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"user_id": [1], "item_id": [2]}, "mine.parquet: expected a column for the time such as"),
        (
            LOG | {"itemid": ["a", None]},
            "itemid: expected a value in every row, found none in row 1",
        ),
        (LOG | {"visitorid": [1.5, 2.0]}, "user: expected ids .whole numbers or texts., found 1.5"),
        (LOG | {"timestamp": [1.0, np.inf]}, "timestamp: expected finite times, found one of inf"),
        (LOG | {"timestamp": ["soon", "now"]}, "timestamp: expected .*, found 'soon'"),
        ({name: [] for name in LOG}, "events: expected at least one, found an empty table"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, table, message):
    folder = write(tmp_path / "log", mine_parquet=parquet(table))
    with pytest.raises(InputError, match=message) as error:
        read(folder)
    assert "\n" not in str(error.value) and "mine.parquet" in str(error.value)


def test_damage_is_said(tmp_path):
    whole = parquet(LOG)
    for data in (whole[:40], whole[:-9] + bytes(9), b"PAR1", whole[:60] + b"x" * 30 + whole[90:]):
        folder = write(tmp_path / "log", mine_parquet=data)
        with pytest.raises(
            InputError, match=r"mine\.parquet: expected a whole parquet file, found"
        ):
            read(folder)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_log, "_LEAST_LIMIT", 100)
    monkeypatch.setattr(parquet_log, "_MOST_RATIO", 2)
    many = 100_000  # equal values: a few bytes each thousand
    table = {name: np.repeat(values[:1], many) for name, values in LOG.items()}
    folder = write(tmp_path / "log", mine_parquet=parquet(table))
    with pytest.raises(InputError, match=r"expected at most .* bytes when unpacked, found more"):
        read(folder)


def test_sizes_that_the_file_claims_are_not_asked(tmp_path):
    """pyarrow ends the process where a damaged footer is asked for the size of a column."""
    whole = bytearray(parquet(LOG))
    for place in range(len(whole) - 400, len(whole)):
        damaged = bytes(whole[:place]) + bytes([whole[place] ^ 2]) + bytes(whole[place + 1 :])
        folder = write(tmp_path / "log", mine_parquet=damaged)
        try:
            read(folder)
        except InputError as error:
            assert "\n" not in str(error)


def test_items_in_parquet_beside_it_are_refused_by_name(tmp_path):
    items = parquet({"id": ["a"], "text": ["ants"]})
    folder = write(tmp_path / "log", mine_parquet=parquet(LOG), items_parquet=items)
    with pytest.raises(InputError, match=r"items\.parquet: expected items\.csv or items\.npy"):
        read(folder)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    folder = write(tmp_path / "log", mine_parquet=parquet(LOG))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"pip install 'shampoo-nxtpost-hsnn\[parquet\]'"):
        read(folder)
