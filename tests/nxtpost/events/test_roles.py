import pytest

from nxtpost_jax.events.roles import ColumnError, item_id, recognise, unread_rating


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("user,item,timestamp,action,weight", "user,item,timestamp,action"),
        ("timestamp,visitorid,event,itemid,transactionid", "visitorid,itemid,timestamp,event"),
        ("user_id,parent_asin,rating,timestamp", "user_id,parent_asin,timestamp,"),
        ("userId,movieId,rating,timestamp", "userId,movieId,timestamp,"),
        ("user_id:token,item_id:token,rating:float,timestamp:float", None),
        ("reviewerID,asin,overall,unixReviewTime,reviewTime", "reviewerID,asin,unixReviewTime,"),
        ("user_id,item_id,last_watch_dt,total_dur,watched_pct", "user_id,item_id,last_watch_dt,"),
        ("t_dat,customer_id,article_id,price", "customer_id,article_id,t_dat,"),
        ("CustomerID,StockCode,InvoiceDate,Quantity", "CustomerID,StockCode,InvoiceDate,"),
        ("sessionId,userId,itemId,eventdate", "userId,itemId,eventdate,"),
        ("session,aid,ts,type", "session,aid,ts,type"),
        (",USER ID,Product Id,Date", "USER ID,Product Id,Date,"),
        ("movie,movie_id,user,time", "user,movie_id,time,"),
        ("item,user", "user,item,,"),
    ],
)
def test_usual_names_are_recognised(names, expected):
    names = names.split(",")
    roles = recognise(names)
    if expected is None:
        assert list(roles.values()) == [names[0], names[1], names[3]]
        return
    wanted = dict(zip(("user", "item", "time", "action"), expected.split(",")))
    assert roles == {role: name for role, name in wanted.items() if name}


def test_a_caller_names_what_is_not_recognised():
    given = {"user": "who", "item": "what"}
    assert recognise(["what", "who", "user_id", "item_id"], given) == given
    weighed = recognise(["user", "item", "rating"], {"weight": "rating"}, optional=("weight",))
    assert weighed["weight"] == "rating"
    # what is named for one role is not found for another
    assert recognise(["user", "item", "date"], {"item": "date", "user": "item"})["item"] == "date"


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (
            ["user_id", "asin", "parent_asin"],
            None,
            r"one column for the item, found 'asin' and 'parent_asin' \(columns=\{'item': 'asin'\}",
        ),
        (
            ["shop_user_key", "item_id", "ts"],
            None,
            r"a column for the user such as user_id, found 'shop_user_key', which looks like the "
            r"user \(columns=\{'user': 'shop_user_key'\}\)",
        ),
        (
            ["a", "itemid", "ts"],
            None,
            r"a column for the user such as user_id, found a, itemid like the item, ts like the "
            r"time \(columns=\{'user': 'NAME'\} names one\)",
        ),
        ([], None, "a column for the user such as user_id, found none"),
        (["user", "item"], {"usr": "user"}, "user or item or time or action, found 'usr'"),
        (["user", "item"], {"weight": "item"}, "user or item or time or action, found 'weight'"),
        (["u", "item"], {"user": "v"}, "the user among u, item, found 'v'"),
        (["u", "v"], {"user": "u", "item": "u"}, "a column per role, found 'u' as user and item"),
        (["u", "u", "i"], {"user": "u", "item": "i"}, "one column 'u', found several"),
        (["user", "user", "item"], None, "one column for the user, found 'user' and 'user'"),
    ],
)
def test_what_is_unclear_is_refused_in_one_line(names, given, message):
    with pytest.raises(ValueError, match=f"columns: expected {message}") as caught:
        recognise(names, given)
    assert "\n" not in str(caught.value)


def test_advice_is_written_as_the_caller_writes():
    with pytest.raises(ValueError, match="--columns user=person"):
        recognise(["person", "item"], written=lambda role, name: f"--columns {role}={name}")


def test_a_rating_is_no_weight_until_the_caller_says_so():
    names = ["user", "item", "Rating:float"]
    roles = recognise(names)
    assert "weight" not in roles and unread_rating(names, roles) == "Rating:float"
    assert unread_rating(names, roles | {"weight": "Rating:float"}) is None


@pytest.mark.parametrize(
    ("names", "how", "expected"),
    [
        (["movieId", "title", "genres"], {}, "movieId"),
        (["title", "ID"], {}, "ID"),
        (["id", "content", "artist"], {}, "id"),
        (["id", "item_id"], {}, "item_id"),
        (["content", "price"], {}, "content"),
        (["isbn", "book_id"], {"usual": "book_id"}, "book_id"),
        (["isbn", "thing"], {"told": "thing", "usual": "isbn"}, "thing"),
        (["isbn", "title"], {"usual": "book_id"}, "isbn"),
    ],
)
def test_the_ids_of_a_table_of_items_are_found(names, how, expected):
    assert item_id(names, **how) == expected


@pytest.mark.parametrize(
    ("names", "how", "message"),
    [
        (["title"], {}, r"such as item_id, found title \(parts={'NAME': 'id'} names one\)"),
        (["isbn", "book_id"], {}, r"'isbn' and 'book_id' \(parts={'isbn': 'id'} picks one\)"),
        (["title"], {"told": "sku"}, "the item among title, found 'sku'"),
    ],
)
def test_unclear_ids_of_items_are_refused(names, how, message):
    with pytest.raises(ColumnError, match=message):
        item_id(names, **how)
