import datetime
import sys

import numpy as np
import pytest

from nxtpost_jax.events.filters import keep_events
from nxtpost_jax.events.ids import OwnIds
from nxtpost_jax.events.log import grouped, is_table, read_log
from nxtpost_jax.events.sequences import Sequences

ISO = ["2023-01-01 00:30", "2023-01-01 00:00", "2023-01-02 00:00"]
SECONDS = [1672533000, 1672531200, 1672617600]
EVENTS = {
    "visitorid": ["ann", "bob", "ann"],
    "itemid": ["cup", "jug", "jug"],
    "timestamp": ISO,
    "event": ["view", "buy", "view"],
    "colour": ["red", "blue", "red"],
}


def sequences_of(log):
    items, actions = OwnIds(), OwnIds()
    codes = items.add("item", log.item)
    action_codes = None if log.action is None else actions.add("action", log.action)
    return *grouped(log, codes, action_codes), items


@pytest.mark.parametrize("make", [lambda column: column, np.array, lambda c: np.array(c, object)])
def test_a_dict_of_columns_is_a_log(make):
    log = read_log({name: make(column) for name, column in EVENTS.items()})
    assert log.time.tolist() == SECONDS
    sequences, users, items = sequences_of(log)
    assert users.take(np.arange(2)).tolist() == ["ann", "bob"]  # in the order of first events
    assert [items.take(sequences[u]).tolist() for u in range(2)] == [["cup", "jug"], ["jug"]]
    assert sequences.actions.tolist() == [0, 0, 1]


def test_a_log_without_times_has_the_order_of_its_rows():
    log = read_log({"user": [1, 1, 1], "item": [9, 7, 8]})
    sequences, _, items = sequences_of(log)
    assert items.take(sequences[0]).tolist() == [9, 7, 8]
    assert log.time is None and log.action is None and sequences.times is None


def test_a_column_called_weight_weighs_events():
    """In the order of time, as all columns; a rating is none."""
    log = read_log(EVENTS | {"weight": [1, 0.5, 2], "rating": [5, 5, 5]})
    sequences, _, _ = sequences_of(log)
    assert sequences.weights.tolist() == [1.0, 2.0, 0.5]
    assert sequences.select(np.array([1])).weights.tolist() == [0.5]
    assert keep_events(sequences, np.array([True, False, True])).weights.tolist() == [1.0, 0.5]
    assert read_log(EVENTS | {"rating": [5, 5, 5]}).weight is None
    named = read_log(EVENTS | {"rating": [5, 4, 3]}, {"weight": "rating"})
    assert named.weight.tolist() == [5, 4, 3]
    for values, found in (([1, -1, 1], "-1"), ([1, np.nan, 1], "nan"), (["a", "b", "c"], "'a'")):
        with pytest.raises(ValueError, match=f"weight: expected .* of at least 0, found .*{found}"):
            read_log(EVENTS | {"weight": values})


def test_events_of_unknown_items_leave_their_users():
    log = read_log({"user": ["a", "b"], "item": [1, 2]})
    sequences, users = grouped(log, np.array([-1, 0]), None)
    assert len(users) == 2 and sequences.lengths.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"itemid": ["cup", "jug"]}, "itemid: expected 3 values, one per event, found 2"),
        ({"timestamp": ["now"] * 3}, "timestamp: expected seconds since 1970 or .* found 'now'"),
        ({"timestamp": [1, 2, 1672531200000]}, "timestamp: .*looks like milliseconds"),
        ({"itemid": np.zeros((3, 2))}, r"itemid: expected one dimension, found shape \[3, 2\]"),
        ({name: [] for name in EVENTS}, "events: expected at least one, found an empty table"),
    ],
)
def test_a_bad_column_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        read_log(EVENTS | changes)


def test_what_is_a_table():
    assert is_table({}) and not any(map(is_table, ([], [[1]], np.zeros(3), Sequences([], [0]))))


def test_a_dict_needs_no_other_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "narwhals", None)
    assert len(read_log(EVENTS).user) == 3

    class Frame:
        columns = ("user", "item")

    with pytest.raises(ModuleNotFoundError, match=r"narwhals: pip install '.*\[frames\]'"):
        read_log(Frame())


LIBRARIES = ["pandas", "polars", "pyarrow"]


def frame_of(library, columns):
    """A DataFrame of columns; skipped where its library is not installed."""
    module = pytest.importorskip(library)
    return module.table(columns) if library == "pyarrow" else module.DataFrame(columns)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("zone", [None, datetime.timezone(datetime.timedelta(hours=2))])
def test_a_frame_is_read_as_its_columns(library, zone):
    moments = [datetime.datetime.fromisoformat(text).replace(tzinfo=zone) for text in ISO]
    log = read_log(frame_of(library, EVENTS | {"timestamp": moments}))
    shift = 0 if zone is None else 7200
    assert log.time.tolist() == [moment - shift for moment in SECONDS]
    sequences, users, items = sequences_of(log)
    assert (users.kind, items.kind) == ("texts", "texts")
    assert items.take(sequences[0]).tolist() == ["cup", "jug"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_dates_and_64_bit_ids_of_a_frame(library):
    days = [datetime.date(2023, 1, 2), datetime.date(2023, 1, 1)]
    columns = {"user": [2**40, 2**40], "item": [2**62, 2**62 + 1], "date": days}
    log = read_log(frame_of(library, columns))
    sequences, _, items = sequences_of(log)
    assert items.take(sequences[0]).tolist() == [2**62 + 1, 2**62]
    assert log.time.tolist() == [1672617600, 1672531200]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_missing_value_of_a_frame_is_named(library):
    columns = {"user": ["a", "b", None], "item": ["x", "y", "z"]}
    with pytest.raises(
        ValueError, match="user: expected a value in every row, found none in row 2"
    ):
        read_log(frame_of(library, columns))


def test_categories_are_texts():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"user": pandas.Categorical(["b", "a"]), "item": [1, 2]})
    assert list(read_log(frame).user) == ["b", "a"]


def test_a_lazy_frame_is_refused():
    polars = pytest.importorskip("polars")
    lazy = polars.DataFrame({"user": [1], "item": [1]}).lazy()
    with pytest.raises(ValueError, match=r"events: expected a DataFrame in memory .*LazyFrame"):
        read_log(lazy)
