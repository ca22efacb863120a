"""Whatever cannot be read is one line that names the file."""

import gzip
import os

import numpy as np
import pytest

from experiments.data.datasets import read, read_text
from experiments.harness.errors import InputError
from tests.experiments.data.folders import write

RATINGS = "7::30::4::20\n7::10::5::10\n2::30::3.5::5\n7::20::1::10\n"
GENERAL = "user,item,timestamp\n"


LONG_ID = "movieId,title,genres\n" + "1" * 5000 + ",A,B\n"


def npy(header):
    """The start of an .npy file."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"ratings_dat": RATINGS + "7::x::4::3\n"}, r"dat, line 5: .*whole number as item.*'x'"),
        ({"ratings_dat": RATINGS + "7::4::3\n"}, r"line 5: expected user::item::rating::timesta"),
        ({"ratings_dat": RATINGS + "\n\n7::1::4::3\n"}, r"line 5: expected user::item"),
        ({"ratings_dat": "7:1::2::3::4\n"}, r"line 1: expected a whole number as user"),
        ({"ratings_dat": "7::1::2::-3\n"}, r"whole unix seconds as timestamp, found '-3'"),
        ({"ratings_dat": "7::1::nan::3\n"}, r"number .* as rating, found 'nan'"),
        ({"ratings_dat": "7::" + "1" * 19 + "::2::3\n"}, r"whole number as item"),
        ({"ratings_dat": "7::0000001::2::3\n7::tt1::2::3\n"}, r"line 2: .*digits as item, found"),
        ({"ratings_dat": ""}, r"ratings\.dat: expected at least one line, found an empty file"),
        ({"ratings_dat": "1::1::1::1\n", "movies_dat": "1:Film\n"}, r"movies\.dat, line 1"),
        (
            {"ratings_dat": "1::0000001::1::1\n", "movies_dat": b"0000001::A::B\n1::\xe9::C\n"},
            r"movies\.dat, line 2: expected UTF-8 text",
        ),
        ({"u_data": "1\t2\t3\n"}, r"u\.data, line 1: expected user<tab>item<tab>rating<tab>time"),
        ({"u_data": "1\t2\t3\t4\n", "u_item": "one|two\n"}, r"u\.item, line 1: expected id"),
        (
            {"ratings_csv": "user,movie\n1,2\n"},
            r"csv, line 1: expected a column for the time such as timestamp, found user like the",
        ),
        ({"ratings_csv": "userId,movieId,rating,timestamp\n"}, r"line 2: .*one event, found none"),
        ({"ratings_csv": "userId,movieId,rating,timestamp\n1,2,3\n"}, r"ratings\.csv, line 2"),
        ({"x_txt": "1 2\n1 3\n1 4 5\n"}, r"x\.txt, line 3: expected user item, found '1 4 5'"),
        ({"x_txt": "1 2\n1 three\n1 4\n"}, r"line 2: expected whole numbers .*found '1 three'"),
        ({"x_txt": "1 2\n\n1 4\n"}, r"line 2: expected whole numbers"),
        ({"x_txt": "1 2 3\n2 4 5\n1 6 7\n"}, r"line 3: .*one line a user.*second line of user 1"),
        ({"x_txt": "1 2 3\n2\n"}, r"line 2: expected user item item \.\.\., found '2'"),
        ({"train_txt": "0 1\n0 2\n", "test_txt": "0 3\n"}, r"train\.txt, line 2: .*one line a us"),
        ({"train_txt": "0 1\n", "test_txt": "0 a\n"}, r"test\.txt, line 1: expected whole num"),
        (
            {"interactions_csv": "shopper,item,timestamp\n1,2,3\n"},
            r"line 1: expected a column for the user such as user_id, found shopper, item like",
        ),
        (
            {"interactions_csv": "user_key,item,timestamp\n1,2,3\n"},
            r"found 'user_key', which looks like the user \(--columns user=user_key\)$",
        ),
        (
            {"interactions_csv": "user,asin,parent_asin,timestamp\n1,2,3,4\n"},
            r"expected one column for the item, found 'asin' and 'parent_asin' \(--columns item=as",
        ),
        ({"interactions_csv": GENERAL}, r"line 2: expected at least one event, found none"),
        ({"interactions_csv": GENERAL + "1,2,nan\n"}, r"line 2: .*unix seconds as timestamp"),
        ({"interactions_csv": GENERAL + "1,2,1e999\n"}, r"unix seconds as timestamp"),
        (
            {"interactions_csv": GENERAL + "1,2,3\n1,2,1662984066080\n"},
            r"line 3: expected unix seconds as timestamp, found '1662984066080', .* milliseconds$",
        ),
        (
            {"ratings_dat": "7::1::2::1662984066080123\n"},
            r"line 1: expected whole unix seconds as timestamp, found .* looks like microseconds$",
        ),
        (
            {"ratings_csv": "userId,movieId,rating,timestamp\n1,2,3,4\n1,2,3,1662984066080\n"},
            r"line 3: expected unix seconds .* milliseconds$",
        ),
        ({"u_data": "1\t2\t3\t1662984066080\n"}, r"line 1: expected whole unix .* milliseconds$"),
        (
            {"interactions_csv": "user,item,timestamp,weight\n1,2,3,1e308\n"},
            r"line 2: expected a number that float32 can hold as weight, found '1e308'",
        ),
        ({"interactions_csv": GENERAL + "1,2,3\n1,,3\n"}, r"line 3: .* as item, found ''"),
        (
            {"interactions_csv": GENERAL + "1,2,2020-01-01\n1,2,01/02/2020\n"},
            r"line 3: .*seconds or a date as 2010-12-31 08:26:00 as timestamp, found '01/02/2020'$",
        ),
        (
            {"interactions_csv": GENERAL + "1,2,2020-01-01\n1,2,5\n"},
            r"line 3: .*a date.* found '5'",
        ),
        (
            {"interactions_csv": GENERAL + "1,2,3,4\n"},
            r"line 2: expected user,item,timestamp, found",
        ),
        ({"interactions_csv": GENERAL.encode() + b"a,\xff,3\n"}, r"line 2: expected UTF-8 text"),
        ({"interactions_csv": GENERAL + '1,"2,3\n'}, r"line 2: expected csv, found"),
        ({"interactions_csv": GENERAL + '"a",2,3\n1,2\n'}, r"line 3: expected 3 fields"),
        (
            {"interactions_csv": GENERAL + "1,2,3\n", "items_csv": "item,text\n2,x\n"},
            r"items\.csv, line 1: expected id,text",
        ),
        (
            {"interactions_csv": GENERAL + "1,2,3\n", "items_csv": "id,text\n2,x\n2,y\n"},
            r"items\.csv: expected one row an item, found '2' twice",
        ),
        (
            {
                "interactions_csv": GENERAL + "1,0663713001,3\n",
                "items_csv": "id,text\n663713001,dress\n",
            },
            r"items\.csv: expected at least half of the 1 items of the log, found 0 \(the log has "
            r"'0663713001', the table '663713001'\)$",
        ),
        (
            {"interactions_csv": GENERAL + "1,2,3\n", "items_parquet": b"PAR1"},
            r"items\.parquet: expected items\.csv or items\.npy beside a log, found parquet$",
        ),
        ({"interactions_csv": GENERAL + "1,2,3\n", "items_npy": b"junk"}, r"items\.npy: .*damage"),
        (
            {"interactions_csv": GENERAL + "1,2,3\n", "items_npy": b"PK\x03\x04abc"},
            r"items\.npy: expected a \.npy array, found damage",
        ),
        (
            {"interactions_csv": GENERAL + "1,2,3\n", "items_npy": npy("{'descr': ('<f4'")},
            r"items\.npy: expected a \.npy array, found damage",
        ),
        (
            {
                "interactions_csv": GENERAL + "1,2,3\n",
                "items_npy": npy(
                    "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 9)}"
                ),
            },
            r"items\.npy: expected a \.npy array, found damage",
        ),
        (
            {"interactions_csv": GENERAL + "1,2,3\n", "items_csv": b"\xef\xbb\xbf"},
            r"items\.csv: expected a header, found an empty file",
        ),
        (
            {"ratings_csv": "userId,movieId,rating,timestamp\n1,2,3,4\n", "movies_csv": LONG_ID},
            r"movies\.csv: expected whole numbers as movieId, found '1111",
        ),
        (
            {"ratings_dat": "1::1::1::1\n", "movies_dat": "1" * 5000 + "::A::B\n"},
            "dat, line 1: exp",
        ),
        ({"x_txt_gz": gzip.compress(b"1 2\n" * (5 << 20))}, "at most 200 times its .* found more"),
        ({"notes_md": "hello"}, r"expected MovieLens \(ratings\.dat.*found notes\.md"),
        ({}, r"expected MovieLens .* found an empty folder"),
        ({"a_txt": "1 2\n1 3\n", "b_txt": "1 2\n1 3\n"}, r"expected one data file .*a\.txt, b\.t"),
    ],
)
def test_bad_folder_is_one_clear_line(tmp_path, files, message):
    folder = write(tmp_path / "bad", **files)
    with pytest.raises(InputError, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_bad_vectors(tmp_path):
    folder = write(tmp_path / "v", interactions_csv=GENERAL + "1,2,3\n")
    for vectors, message in [
        (np.zeros((2, 3)), r"item ids from 0 to 1 .*found item '2'"),
        (np.zeros(3), r"expected numbers of shape \[items, features\]"),
        (np.full((3, 2), np.nan), r"finite numbers, found NaN or infinity in row 0"),
    ]:
        np.save(folder / "items.npy", vectors)
        with pytest.raises(InputError, match=message):
            read(folder)
    write(folder, items_csv="id,text\n2,x\n")
    with pytest.raises(InputError, match="finite numbers"):
        read(folder)
    np.save(folder / "items.npy", np.zeros((3, 2)))
    with pytest.raises(InputError, match=r"expected 1 rows, one for each of items\.csv, found 3"):
        read(folder)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("9,A1,MUG,6,yesterday,2.5,55.0,Norway\n", r"line 2: expected a date .*'yesterday'"),
        ("9,A1,MUG,six,2011-01-02 00:00:00,2.5,55.0,Norway\n", r"line 2: .*number as Quantity"),
        ("9,A1,MUG,6,2011-01-02 00:00:00,2.5,nan,Norway\n", r"line 2: .*number as CustomerID"),
        ("9,A1,MUG,6\n", r"line 2: expected 8 fields"),
        ("9,A1,MUG,6,2011-01-02 00:00:00,2.5,,Norway\n", r"at least one row with a CustomerID"),
    ],
)
def test_bad_retail(tmp_path, row, message):
    header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
    folder = write(tmp_path / "shop", sales_csv=header + row)
    with pytest.raises(InputError, match=message):
        read(folder)


def test_a_general_item_id_of_5000_digits_is_text(tmp_path):
    described = f"id,text\n{'1' * 5000},x\n2,y\n"
    folder = write(tmp_path / "v", interactions_csv=GENERAL + "1,2,3\n", items_csv=described)
    assert read(folder).item_texts == ["y"]


@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "interactions.csv")
    for reader in (read, read_text):
        with pytest.raises(InputError, match=r"regular file, found a .*pipe or device"):
            reader(tmp_path / "interactions.csv")


def test_missing_and_unknown_paths(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: expected a folder or a file, found nothing"):
        read(tmp_path / "nowhere")
    write(tmp_path, prose_txt="once upon a time\n", empty_txt="")
    with pytest.raises(InputError, match=r"prose\.txt: expected MovieLens .* none of these"):
        read(tmp_path / "prose.txt")
    with pytest.raises(InputError, match=r"empty\.txt: .* found an empty file"):
        read(tmp_path / "empty.txt")


@pytest.mark.parametrize("name", ["ratings_dat_gz", "x_txt_gz"])
def test_damaged_gzip(tmp_path, name):
    rng = np.random.default_rng(0)
    text = "".join(f"{u}::{i}::3::4\n" for u, i in rng.integers(1, 999, (5000, 2)))
    if name == "x_txt_gz":
        text = text.replace("::3::4", "").replace("::", " ")
    packed = gzip.compress(text.encode())
    path = write(tmp_path / "cut", **{name: packed[: len(packed) // 2]}) / name.replace("_", ".")
    with pytest.raises(InputError, match="expected a whole gzip file, found one that is cut short"):
        read(path)
    with pytest.raises(InputError, match="expected a whole gzip file, found one that is cut short"):
        read(path.parent)
    path.write_bytes(packed[:100] + b"\0" * 50 + packed[150:])
    with pytest.raises(InputError, match="expected a whole gzip file, found damage"):
        read(path)
    path.write_bytes(b"plain text under a gzip name\n")
    with pytest.raises(InputError, match="expected a whole gzip file, found damage"):
        read(path)
