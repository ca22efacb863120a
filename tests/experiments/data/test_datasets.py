"""Readers: every format gives the same kind of record, and bad input names its line."""

import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest

from experiments.data.datasets import read, read_text
from experiments.data.files import git_blob_id
from experiments.data.table import read_columns, read_int_lines
from experiments.harness.errors import InputError, bad_input, exit_on_input_error
from tests.experiments.data.folders import write

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def events(record):
    """List (original user, original item) in the record's order."""
    users, items = record.user_ids[record.users], record.item_ids[record.items]
    return list(zip(users.tolist(), items.tolist()))


RATINGS = "7::30::4::20\n7::10::5::10\n2::30::3.5::5\n7::20::1::10\n"


# ---- formats


def test_movielens_dat_sorts_stably_and_finds_texts(tmp_path):
    films = "10::Éclair (1990)::Drama|War\n30::Plain (1991)::Comedy\n99::Unseen (1992)::War\n"
    write(tmp_path / "ml", ratings_dat=RATINGS, movies_dat=films.encode("latin-1"))
    record = read(tmp_path / "ml")
    assert record.name == "ml"
    assert events(record) == [(2, 30), (7, 10), (7, 20), (7, 30)]  # 10 and 20 tie: file order
    assert record.timestamps.tolist() == [5, 10, 10, 20]
    assert record.weights.tolist() == [3.5, 5, 1, 4]
    assert record.item_texts == ["Éclair (1990) Drama War", "", "Plain (1991) Comedy"]
    assert (record.users.dtype, record.items.dtype) == (np.int32, np.int32)
    assert (record.timestamps.dtype, record.weights.dtype) == (np.float64, np.float32)
    assert record.notes == ()


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
def test_line_endings_do_not_matter(tmp_path, ending):
    lines = ending.join(RATINGS.split("\n")) if ending else RATINGS.rstrip("\n")
    record = read(write(tmp_path / "ml", ratings_dat=lines))
    assert record.n_events == 4 and record.item_texts is None


def test_movietweetings_keeps_padded_ids_and_reads_utf8(tmp_path):
    folder = write(
        tmp_path / "tweets",
        ratings_dat="1::0012345::8::100\n1::1234567::7::90\n",
        movies_dat="0012345::Ōsaka (2011)::Drama\n1234567::No genre (2012)::\n",
    )
    record = read(folder)
    assert events(record) == [(1, "1234567"), (1, "0012345")]
    assert record.item_texts == ["Ōsaka (2011) Drama", "No genre (2012)"]


def test_u_data_names_genres(tmp_path):
    folder = write(
        tmp_path / "old",
        u_data="5\t1\t3\t200\n5\t2\t4\t100\n",
        u_item="1|Été (1995)|01-Jan-1995||url|0|1|1\n2|Two (1996)||||1|0|0\n".encode("latin-1"),
        u_genre="unknown|0\nAction|1\nWar|2\n",
    )
    record = read(folder)
    assert events(record) == [(5, 2), (5, 1)]
    assert record.item_texts == ["Été (1995) Action War", "Two (1996) unknown"]


def test_ratings_csv_reads_quoted_titles(tmp_path):
    folder = write(
        tmp_path / "new",
        ratings_csv="userId,movieId,rating,timestamp\r\n1,9,4.5,20\r\n1,8,3.0,10\r\n",
        movies_csv='movieId,title,genres\r\n9,"Nine, The (1999)",War|Drama\r\n8,Eight,(no genres '
        "listed)\r\n",
    )
    record = read(folder)
    assert events(record) == [(1, 8), (1, 9)]
    assert record.item_texts == ["Eight", "Nine, The (1999) War Drama"]


def test_sasrec_keeps_file_order_and_ignores_id_maps(tmp_path):
    folder = write(tmp_path / "sas", x_txt="1 5\n1 3\n2 5\n1 9\n", map_txt="1 77\n2 66\n3 55\n")
    record = read(folder)
    assert events(record) == [(1, 5), (1, 3), (1, 9), (2, 5)]
    assert record.timestamps is None and record.ordered
    assert (record.name, read(folder / "x.txt").name) == ("sas", "x")
    assert record.sha256 == read(folder / "x.txt").sha256


def test_s3rec_reads_one_line_a_user(tmp_path):
    folder = write(tmp_path / "s3", Beauty_txt="2 9 8 7\n1 7 9 9 6\n")
    assert events(read(folder)) == [(1, 7), (1, 9), (1, 9), (1, 6), (2, 9), (2, 8), (2, 7)]


def test_lightgcn_keeps_the_published_split(tmp_path):
    folder = write(tmp_path / "gcn", train_txt="0 4 2 \n1 2\n", test_txt="0 7\n1\n")
    record = read(folder)
    assert events(record) == [(0, 4), (0, 2), (0, 7), (1, 2)]
    assert record.published_test.tolist() == [False, False, True, False]
    assert not record.ordered and "set" in record.notes[0]
    assert read(folder / "test.txt").sha256 == record.sha256


def test_online_retail_marks_cancellations(tmp_path):
    text = (
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
        '9,A1,"RED, MUG",6,2011-01-02 00:00:00,2.5,55.0,Norway\n'
        "8,B2,TIN BOX,1,1970-01-02 00:00:00,1.0,55.0,Norway\n"
        "C7,A1,lost,-6,2011-01-03 00:00:00,2.5,55.0,Norway\n"
        '6,A1,"RED, MUG",1,2011-01-04 00:00:00,2.5,,Norway\n'
    )
    record = read(write(tmp_path / "shop", sales_csv=text))
    assert events(record) == [(55, "B2"), (55, "A1"), (55, "A1")]
    assert record.timestamps[0] == 86_400.0
    assert record.action_names == ("purchase", "cancellation")
    assert record.actions.tolist() == [0, 0, 1]
    assert record.weights.tolist() == [1, 6, -6]
    assert record.item_texts == ["RED, MUG", "TIN BOX"]
    assert record.notes == ("1 rows without a customer are left out",)


def test_general_format_with_all_columns(tmp_path):
    folder = write(
        tmp_path / "mine",
        interactions_csv='item,user,timestamp,weight,action\n"a,b",ann,2.5,1,view\nc,ann,1,2,buy\n',
        items_csv="id,text,brand\nc,Cup,Acme\nzzz,never seen,\n",
    )
    record = read(folder)
    assert events(record) == [("ann", "c"), ("ann", "a,b")]
    assert record.timestamps.tolist() == [1.0, 2.5]
    assert [record.action_names[a] for a in record.actions] == ["buy", "view"]
    assert record.item_texts == ["", "Cup Acme"]  # no text: empty; text of an unseen id: ignored


def test_general_vectors_by_row_number_and_by_items_csv(tmp_path):
    vectors = np.arange(8, dtype=np.float32).reshape(4, 2)
    folder = write(tmp_path / "v", interactions_csv="user,item,timestamp\n1,3,5\n1,1,6\n")
    np.save(folder / "items.npy", vectors)
    assert read(folder).item_content.tolist() == [[2, 3], [6, 7]]
    write(folder, items_csv="id,text\n9,x\n8,y\n3,z\n7,w\n")
    content = read(folder).item_content
    assert content[1].tolist() == [4, 5]
    assert np.isnan(content[0]).all()  # item 1 has no row


def test_general_ids_stay_text_unless_all_are_canonical_numbers(tmp_path):
    folder = write(tmp_path / "ids", interactions_csv="user,item,timestamp\n01,3,5\n1,20,6\n")
    record = read(folder)
    assert record.user_ids.tolist() == ["01", "1"]
    assert record.item_ids.tolist() == [3, 20]


def test_gzip_gives_the_same_record_and_hash(tmp_path):
    plain = read(write(tmp_path / "plain", ratings_dat=RATINGS))
    packed = write(tmp_path / "packed", ratings_dat_gz=gzip.compress(RATINGS.encode()))
    assert read(packed).sha256 == read(packed / "ratings.dat.gz").sha256 == plain.sha256
    assert events(read(packed)) == events(plain)
    changed = read(write(tmp_path / "changed", ratings_dat=RATINGS.replace("7::20::1", "7::20::2")))
    assert changed.sha256 != plain.sha256


def test_summary_and_user_with_one_event(tmp_path):
    record = read(write(tmp_path / "one", x_txt="1 5\n") / "x.txt")
    assert record.summary() == f"x: 1 users, 1 items, 1 events, sha256 {record.sha256}"
    assert len(record.sha256) == 16


def test_reassembled_ratings_are_noted(tmp_path):
    folder = write(tmp_path / "ml", ratings_dat=RATINGS, timestamp_status_txt="x")
    (folder / "timestamp.status.txt").rename(folder / "timestamp_status.txt")
    (folder / "timestamp_status.txt").write_text("E\nI\nB\nE\n")
    (note,) = read(folder).notes
    assert "order within a user is right" in note and "25% of the timestamps" in note


def test_git_blob_id_is_gits():
    assert git_blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def test_columns_agree_with_a_slow_parser():
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 10 ** rng.integers(1, 18, 500), dtype=np.int64)
    floats = rng.normal(size=500) * 10.0 ** rng.integers(-20, 20, 500)
    words = [f"é{n}" for n in numbers]
    lines = "".join(f"{n}::{f!r}::{w}\n" for n, f, w in zip(numbers, floats.tolist(), words))
    table = read_columns(
        lines.encode(),
        Path("x"),
        separator=b"::",
        columns={"a": "int", "b": "number", "c": "id"},
    )
    np.testing.assert_array_equal(table["a"], numbers)
    np.testing.assert_array_equal(table["b"], floats)
    assert table["c"].tolist() == words


def test_int_lines_agree_with_a_slow_parser():
    rng = np.random.default_rng(0)
    lines = [rng.integers(0, 10**9, size).tolist() for size in rng.integers(1, 6, 200)]
    text = "".join("  ".join(map(str, line)) + " \n" for line in lines)
    values, offsets = read_int_lines(text.encode(), Path("x"))
    assert [values[a:b].tolist() for a, b in itertools.pairwise(offsets)] == lines


# ---- MNIST and text


def test_text_is_utf8_or_names_the_line(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes("één\ntwee\n".encode())
    assert read_text(path) == "één\ntwee\n"
    path.write_bytes(b"good\nb\xe9d\n")
    with pytest.raises(InputError, match=r"t\.txt, line 2: expected UTF-8 text, found byte .*xe9"):
        read_text(path)


# ---- bad input


def test_exit_on_input_error_prints_one_line(capsys):
    @exit_on_input_error()
    def main():
        raise bad_input("a.csv", line=3, expected="1\n2", found="x")

    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: a.csv, line 3: expected 1 2, found x\n"
    with pytest.raises(ZeroDivisionError), exit_on_input_error():
        _ = 1 / 0


# ---- the published sets, where this machine has them


@pytest.mark.parametrize(
    ("name", "users", "items", "n_events"),
    [
        ("amazon-beauty", 22_363, 12_101, 198_502),
        ("gowalla", 29_858, 40_981, 1_027_370),
        ("ml-100k", 943, 1_682, 100_000),
        pytest.param("ml-1m", 6_040, 3_706, 1_000_209, marks=pytest.mark.long),
        ("ml-1m-sasrec", 6_040, 3_416, 999_611),
        ("ml-latest-small", 610, 9_724, 100_836),
        ("movietweetings-100k", 16_554, 10_506, 100_000),
        pytest.param("online-retail", 4_372, None, 541_909 - 135_080, marks=pytest.mark.long),
    ],
)
def test_published_counts(name, users, items, n_events):
    if not (SHARED / name).is_dir():
        pytest.skip("the data set is not on this machine")
    record = read(SHARED / name)
    assert (record.n_users, record.n_events) == (users, n_events)
    assert items in (None, record.n_items)
    assert np.all(np.diff(record.users) >= 0)
    if record.timestamps is not None:
        same_user = np.diff(record.users) == 0
        assert np.all(np.diff(record.timestamps)[same_user] >= 0)
    if name == "ml-1m":
        assert "30% of the timestamps are interpolated" in record.notes[0]
        assert all(record.item_texts)
