"""Logs as people have them: any names, order, separator and times, recognised by the header."""

import numpy as np
import pytest

from experiments.data.datasets import read
from experiments.data.log_table import is_header, is_log, parse_columns
from experiments.harness.errors import InputError
from tests.experiments.data.folders import write

# Invented rows under the headers that are published.
LOGS = {
    "retailrocket": "timestamp,visitorid,event,itemid,transactionid\n"
    "{1}000,7,view,30,\n{0}000,7,buy,20,4\n",
    "amazon 2023": "user_id,parent_asin,rating,timestamp\n7,30,5.0,{1}000\n7,20,4.0,{0}000\n",
    "amazon 2023, with history": "user_id,parent_asin,timestamp,history\n"
    "7,30,{1}000,20 20\n7,20,{0}000,\n",
    "recbole": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "7\t30\t5\t{1}\n7\t20\t4\t{0}.0\n",
    "kion": "user_id,item_id,last_watch_dt,total_dur,watched_pct\n"
    "7,30,2023-01-02,9,1.0\n7,20,2023-01-01,9,\n",
    "movielens, quoted": '"userId","movieId","rating","timestamp"\n7,30,5,{1}\n7,20,4,{0}\n',
    "movielens, reordered": "timestamp,rating,movieId,userId\n{1},5,30,7\n{0},4,20,7\n",
    "semicolons": "User ID;Item ID;Date\n7;30;2023-01-02\n7;20;2023-01-01 00:00:00\n",
    "bars": "user|item|time\n7|30|{1}\n7|20|{0}\n",
    "pandas index": ",user_id,item_id,timestamp\n0,7,30,{1}\n1,7,20,{0}\n",
    "quoted": 'user,item,title,timestamp\n"7",30,"A, b\nc",{1}\n7,20,"x ""y""",{0}\n',
    "zones": "user,item,timestamp\n7,30,2023-01-02T02:00:00+02:00\n7,20,2023-01-01T00:00:00Z\n",
    "mark and returns": "\ufeffuser,item,timestamp\r\n7,30,{1}\r\n7,20,{0}\r\n",
    "h&m": "t_dat,customer_id,article_id,price\n2023-01-02,7,30,1\n2023-01-01,7,20,1\n",
    "reviews": "reviewerID,asin,overall,unixReviewTime\n7,30,5,{1}\n7,20,4,{0}\n",
    "otto": "session,aid,ts,type\n7,30,{1}000,carts\n7,20,{0}000,clicks\n",
}
FIRST, LATER = 1672531200, 1672617600  # 2023-01-01 and the day after


def text_of(name):
    return LOGS[name].format(FIRST, LATER)


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize("file", ["interactions_csv", "mine_csv", "events_inter"])
def test_a_log_is_read_whatever_its_columns_are_called(tmp_path, name, file):
    record = read(write(tmp_path / "log", **{file: text_of(name)}))
    assert record.user_ids.tolist() == [7]
    assert record.item_ids[record.items].tolist() == [20, 30]
    assert record.timestamps.tolist() == [FIRST, LATER]
    assert read(tmp_path / "log" / file.replace("_", ".")).n_events == 2


def test_actions_keep_their_names(tmp_path):
    record = read(write(tmp_path / "log", events_csv=text_of("retailrocket")))
    assert [record.action_names[action] for action in record.actions] == ["buy", "view"]


def test_a_rating_is_left_out_until_it_is_asked_for(tmp_path):
    folder = write(tmp_path / "log", mine_csv=text_of("amazon 2023"))
    record = read(folder)
    assert record.weights is None
    assert record.notes == ("rating is left out: no weight (--columns weight=rating)",)
    weighed = read(folder, parse_columns("weight=rating"))
    assert weighed.weights.tolist() == [4, 5] and weighed.notes == ()
    assert (
        read(write(tmp_path / "ml", ratings_csv=text_of("movielens, reordered"))).weights
        is not None
    )


def test_the_caller_names_columns(tmp_path):
    text = "when,who,what\n2,7,30\n1,7,20\n"
    folder = write(tmp_path / "log", log_csv=text, other_csv="id,text\n30,x\n")
    with pytest.raises(InputError, match=r"log\.csv, line 1: expected a column for the user .*"):
        read(folder / "log.csv")
    columns = parse_columns("user=who, item=what,time=when")
    for path in (folder, folder / "log.csv"):
        record = read(path, columns)
        assert record.item_ids[record.items].tolist() == [20, 30]
    with pytest.raises(InputError, match=r"expected one file whose header has nobody, found none"):
        read(folder, {"user": "nobody"})
    with pytest.raises(InputError, match=r"log\.csv, line 1: expected the user among when, who"):
        read(folder / "log.csv", {"user": "nobody"})
    write(folder, ratings_csv="rating,when,userId,movieId\n4,9,7,20\n")
    assert read(folder / "ratings.csv", {"time": "when"}).weights.tolist() == [4]


@pytest.mark.parametrize("text", ["user", "user=", "=x", "user=a,,item=b", ""])
def test_what_names_no_column_is_refused(text):
    with pytest.raises(InputError, match=r"--columns: expected user=NAME,item=NAME,..., found"):
        parse_columns(text)
    assert parse_columns(None) is None


def test_headers_are_told_from_rows_and_prose():
    assert is_log(b"userId,movieId,timestamp") and not is_log(b"id,text")
    assert is_header(b"who;what;when") and is_header(b",a,b")
    for line in (b"once upon a time", b"1,2,3", b"12 345", b"1::2::3::4", b"a"):
        assert not is_header(line) and not is_log(line)


def test_extra_columns_cost_no_conversion(tmp_path):
    """A text of any length, and two columns of one name, stand beside those that are read."""
    rows = "".join(f"7,{n},{'x' * 1000},{n},\n" for n in range(20))
    record = read(write(tmp_path / "log", mine_csv="user,item,title,timestamp,title\n" + rows))
    np.testing.assert_array_equal(record.timestamps, np.arange(20))
