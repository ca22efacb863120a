"""Logs as lines of JSON, as of Amazon's reviews: the same record as from a table of text."""

import gzip
import json

import pytest

from experiments.data.datasets import read
from experiments.harness.errors import InputError
from tests.experiments.data.folders import write

FIRST, LATER = 1672531200, 1672617600  # 2023-01-01 and the day after
EVENTS = [
    {"rating": 5.0, "title": "!", "images": [], "asin": "b", "user_id": "u", "timestamp": LATER},
    {"rating": 1.0, "title": "?", "images": [1], "asin": "a", "user_id": "u", "timestamp": FIRST},
]
# A review of 2023: the variant that was bought, and the product that is described.
REVIEWS = [event | {"parent_asin": event["asin"].upper()} for event in EVENTS]
META = [
    {"title": "Cup\nof tin", "features": ["red", "light"], "price": 3, "parent_asin": "B"},
    {"title": "Jug", "images": ["https://x/1.jpg"], "store": None, "parent_asin": "A"},
]


def lines(objects):
    return "\n".join(map(json.dumps, objects))


def changed(**fields):
    return [EVENTS[0], EVENTS[1] | fields]


@pytest.mark.parametrize("file", ["interactions_jsonl", "mine_jsonl", "mine_json"])
@pytest.mark.parametrize(
    "events",
    [
        EVENTS,
        [event | {"timestamp": event["timestamp"] * 1000} for event in EVENTS],
        [EVENTS[0] | {"timestamp": "2023-01-02"}, EVENTS[1] | {"timestamp": "2023-01-01"}],
    ],
)
def test_a_log_is_read_as_from_text(tmp_path, file, events):
    record = read(write(tmp_path / "log", **{file: lines(events) + "\n\n"}))
    assert record.user_ids.tolist() == ["u"]
    assert record.item_ids[record.items].tolist() == ["a", "b"]
    assert record.timestamps.tolist() == [FIRST, LATER]
    assert "rating is left out" in record.notes[0] and record.weights is None
    assert read(tmp_path / "log" / file.replace("_", ".")).n_events == 2


def test_reviews_and_what_is_sold(tmp_path):
    folder = write(tmp_path / "log", Cups_jsonl=lines(REVIEWS))
    (folder / "meta_Cups.jsonl.gz").write_bytes(gzip.compress(lines(META).encode()))
    with pytest.raises(InputError, match=r"column for the item.*'asin' and 'parent_asin'"):
        read(folder)
    record = read(folder, {"item": "parent_asin", "weight": "rating"})
    assert record.item_ids.tolist() == ["A", "B"]
    assert record.item_texts == ["Jug", "Cup of tin red light"]
    assert record.weights.tolist() == [1, 5]


@pytest.mark.parametrize("ids", [(1, 2), ("1", "2")])
@pytest.mark.parametrize("described", [(1, 2), ("1", "2")])
def test_numbers_are_ids_whatever_they_are_written_as(tmp_path, ids, described):
    events = [event | {"asin": own} for event, own in zip(EVENTS, ids)]
    items = [{"id": own, "text": f"text {own}"} for own in described]
    record = read(write(tmp_path / "log", a_jsonl=lines(events), items_jsonl=lines(items)))
    assert record.item_texts == ["text 1", "text 2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines([{"user_id": 1, "asin": 2}]), "line 1: expected a column for the time such as"),
        (lines(changed(asin=None)), "line 2: expected a text as asin, as before, found none"),
        (lines(changed(user_id=["u"])), r"line 2: expected a text as user_id, as before, found"),
        (
            lines(changed(timestamp=True)),
            "line 2: expected a number as timestamp, as before, found 'true'",
        ),
        (
            lines(changed(timestamp="soon")),
            r"line 2: expected a number as timestamp.*, found .*soon",
        ),
        (lines(changed(timestamp=LATER * 1000)), "timestamp: expected .*"),
        (lines(EVENTS) + "\n[1]", r"line 3: expected an object of JSON, found '\[1\]'"),
        (lines(EVENTS) + '\n{"a": NaN}', "line 3: expected an object of JSON"),
        (lines(EVENTS)[:-4], "line 2: expected an object of JSON"),
        (lines(EVENTS) + "\n" + "[" * 100_000, "line 3: expected an object of JSON"),
        (lines(changed(asin="a" * 300)), "item: expected texts of at most 256 letters, found 'aaa"),
        (lines(changed(asin=1.5)), "line 2: expected a text as asin, as before, found '1.5'"),
        (lines([EVENTS[0] | {"asin": 1.5}]), "item: expected "),
        (lines([EVENTS[0] | {"user_id": 10**30}]), "user: expected "),
        (lines([EVENTS[0] | {"user_id": None}]), "line 1: expected a text or number as user_id, f"),
        (lines(EVENTS).replace(str(LATER), "1e999"), "timestamp: expected finite times, found one"),
        ("{}", "line 1: expected a column for the user such as user_id"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, text, message):
    path = write(tmp_path / "log", mine_jsonl=text) / "mine.jsonl"
    with pytest.raises(InputError, match=message) as error:
        read(path)
    assert "\n" not in str(error.value) and "mine.jsonl" in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            [{"id": "a", "text": "x"}] * 2,
            "items.jsonl, line 2: expected one line per item, found 'a' twice",
        ),
        (
            [{"title": "x"}],
            "items.jsonl, line 1: expected an id as asin or id, found 'title' .--col",
        ),
        ([{"id": "z", "text": "x"}], "items.jsonl: expected at least half of the 2 items of the l"),
    ],
)
def test_what_describes_no_items_is_one_line(tmp_path, items, message):
    folder = write(tmp_path / "log", a_jsonl=lines(EVENTS), items_jsonl=lines(items))
    with pytest.raises(InputError, match=message):
        read(folder)


def test_two_files_of_texts_are_refused(tmp_path):
    texts = {"items_csv": "id,text\na,x\nb,y\n", "items_jsonl": lines([{"id": "a"}])}
    folder = write(tmp_path / "log", a_jsonl=lines(EVENTS), **texts)
    with pytest.raises(InputError, match=r"one file of items' texts, found items\.csv, items\.js"):
        read(folder)
