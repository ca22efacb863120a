"""Tables and records of items as content, in all that a recommender does."""

import dataclasses

import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest
from jax.sharding import AxisType

from nxtpost_jax.events.ids import OwnIds
from nxtpost_jax.serving import described
from nxtpost_jax.serving.recommender import Recommender
from tests.nxtpost.serving.test_described import CONFIG, THEMES, TITLES, fans, theme
from tests.nxtpost.serving.test_mirror import BruteForce
from tests.nxtpost.small_recommender import FAST, TINY, N, drawn, untrained

HOW = {"batch_size": 32, "num_negatives": 16}
GENRES = ["sea|wind", "court|war", "space|war"]
RNG = np.random.default_rng(0)


def record(n, place):
    """What film n says of itself; the theme of `place` is in every part."""
    images = RNG.normal(0, 0.1, (1 + n % 2, 3)) + np.eye(3)[place]
    return {
        "title": f"{THEMES[place]} part {'i' * (n + 2)}",
        "genres": GENRES[place].split("|"),
        "price": float(10 ** (1 + place) + n),
        "award": n % 2 == 0,
        "image": images,
        "cover vector": np.eye(3)[place].tolist(),
    }


SEA, COURT = record(30, 0), record(31, 1)
RECORDS = {film: record(n, n % 3) for n, film in enumerate(TITLES)}
# Every film lacks about half of its parts, so the model learns to do without any of them.
KEPT = np.random.default_rng(1).random((30, 6)) < 0.5
GAPPY = {
    film: {name: part if KEPT[n, m] else None for m, (name, part) in enumerate(each.items())}
    for n, (film, each) in enumerate(RECORDS.items())
}
TABLE = {"item_id": list(RECORDS)} | {
    name: [each[name] for each in RECORDS.values()] for name in RECORDS["film 0"]
}
CHANNELS = {"title", "features", "image", "cover_vector"}
TALES = {name: TABLE[name] for name in ("item_id", "title", "genres", "price")}


def fitted(content=RECORDS, *, epochs=1, table=None, id_embedding=True, fit=None, **given):
    config = dataclasses.replace(CONFIG, id_embedding=id_embedding)
    recommender = Recommender(config, tx=FAST, **given)
    events = fans() if table is None else table
    given = HOW | {"loop": untrained if epochs == 1 else None} | (fit or {})
    recommender.fit(events, content=content, epochs=epochs, **given)
    return recommender


@pytest.fixture(scope="module")
def mixed():
    return fitted(GAPPY, epochs=20, id_embedding=False)


def begun(content, *, told=None, usual=None):
    """Read content beside the events, and train nothing."""
    names = OwnIds()
    items = names.add("item", fans()["item"])
    return names, described.at_start(
        content, names=names, items=items, told=told or {}, usual=usual
    )


def on_host(content):
    return jax.tree.map(np.asarray, dict(content))


def same_content(one, other):
    jax.tree.map(np.testing.assert_array_equal, on_host(one), on_host(other))


def test_records_are_content_of_every_kind(mixed):
    assert set(mixed.content) == CHANNELS
    assert mixed.content["features"].shape == (30, 5 + 2 + 2)
    assert mixed.content["image"].vectors.shape == (30, 2, 3)
    assert repr(mixed) == (
        "Recommender(30 items by title (text), genres (tags), price (number), award (number), "
        "image (set), cover vector (vector), fitted)"
    )
    answer = mixed.recommend([["film 0", "film 3"], ["film 1"]], 5)
    assert [{theme(film) for film, _ in answer.pairs(row)} for row in range(2)] == [{0}, {1}]


@pytest.mark.parametrize("make", [dict, pd.DataFrame, pl.DataFrame])
def test_a_table_says_the_same(make):
    table = make({**TABLE, "image": [image.tolist() for image in TABLE["image"]]})
    (_, one), (_, other) = begun(table), begun(RECORDS)
    assert set(one.content) == CHANNELS and one.descriptions.id_column == "item_id"
    same_content(one.content, other.content)


@pytest.mark.parametrize(
    "new",
    [
        {"title": "A storm at sea: the ship"},
        {"genres": "sea|wind|unheard"},
        {"cover vector": [2, 0, 0], "title": "zzz", "price": None},
        {"image": [[1, 0, 0], [0.9, 0, 0], [1, 0.1, 0]]},  # one more than any had
        SEA,
    ],
)
def test_a_new_item_is_found_by_the_parts_it_has(mixed, new):
    assert mixed.add(new, "new").tolist() == ["new"]
    try:
        near = mixed.similar("new", 4).ids[0].tolist()
        assert {theme(film) for film in near} == {0}
        assert "new" in mixed.recommend(["film 0", "film 3"], 12).ids
    finally:
        mixed.remove("new")


def test_new_items_come_as_records_by_id_or_as_a_table(mixed):
    new = [record(30 + n, n) for n in range(3)]
    ways = [
        ({f"w{n}": each for n, each in enumerate(new)}, None),
        (new, ["w0", "w1", "w2"]),
        ({"item_id": ["w0", "w1", "w2"]} | {name: [r[name] for r in new] for name in new[0]}, None),
        (pd.DataFrame([{"item_id": f"w{n}", **each} for n, each in enumerate(new)]), None),
    ]
    rows = []
    for content, ids in ways:
        assert mixed.add(content, ids).tolist() == ["w0", "w1", "w2"]
        rows.append(mixed.similar(["w0", "w1", "w2"], 5))
        mixed.remove(["w0", "w1", "w2"])
    for answer in rows[1:]:
        np.testing.assert_array_equal(answer.ids, rows[0].ids)
        np.testing.assert_allclose(answer.scores, rows[0].scores, atol=1e-6)
    assert mixed.add({"item_id": "w0", "title": "storm"}).tolist() == ["w0"]  # one record
    mixed.remove(["w0"])


def test_saved_it_reads_new_items_as_before(mixed, tmp_path):
    mixed.save(tmp_path / "saved")
    loaded = Recommender.load(tmp_path / "saved")
    assert repr(loaded) == repr(mixed)
    same_content(loaded.content, mixed.content)
    for each in (mixed, loaded):
        each.add({"x": COURT})
    one, other = (each.recommend(["film 1", "x"], 10) for each in (mixed, loaded))
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.scores, other.scores)
    loaded.save(tmp_path / "again")  # with what came by `add`
    assert "x" in Recommender.load(tmp_path / "again").items
    mixed.remove("x")


@pytest.mark.parametrize(
    ("content", "ids", "message"),
    [
        ({"n": {"title": "zzz"}}, None, "content: expected some of title, genres, .* item 'n'"),
        ({"n": {}}, None, "content: expected some of title, genres, price, .* none of item 'n'"),
        ({"n": {"titel": "sea"}}, None, "content: expected title, .*, found the column 'titel'"),
        ({"n": {"price": np.inf}}, None, "content: expected a finite number in 'price', found inf"),
        ({"n": {"image": [[1, 2]]}}, None, "content: expected vectors .* of width 3 in 'image'"),
        ({"n": "a title"}, None, "content: expected a table or records of .*, found 'a title' of"),
        ({"n": {"title": "sea"}}, ["n"], "ids: expected None beside content by id"),
        ({"title": "sea"}, None, "ids: expected the new items' ids"),
        ([{"title": "sea"}], ["a", "b"], "content: expected 2 records, one per id, found 1"),
        (["sea"], ["a"], "content: expected a record for each item, found 'sea' of item 'a'"),
        ("sea", ["n"], "content: expected a table or records of title.*, found a str"),
        (3, "n", "content: expected a table or records of title.*, found a int"),
        (pd.DataFrame({"title": ["sea"]}), ["n"], "ids: expected None beside content by id"),
        ("sea", None, "content: expected a table or records of title.*, found a str"),
        (
            {"item_id": ["a", "a"], "title": ["sea"] * 2},
            None,
            "ids: expected each once, found a repeated",
        ),
        ({"item_id": ["film 1"], "title": ["sea"]}, None, "ids: expected new ones, found film 1"),
        (pd.DataFrame({"title": ["sea"]}), None, "content: expected a column for the item such as"),
    ],
)
def test_what_cannot_be_added_is_refused_by_name(mixed, content, ids, message):
    before = mixed.items.tolist()
    with pytest.raises(ValueError, match=message) as caught:
        mixed.add(content, ids)
    assert "\n" not in str(caught.value)
    assert mixed.items.tolist() == before


def test_an_item_without_any_part_is_known_by_its_id():
    few = {film: each if n % 3 else {} for n, (film, each) in enumerate(RECORDS.items())}
    del few["film 3"]
    names, start = begun(few)
    codes = names.codes("", ["film 0", "film 3", "film 1"])
    assert start.content["features"][codes].any(axis=1).tolist() == [False, False, True]
    assert start.absent_N[codes].tolist() == [True, True, False]


def test_a_vector_of_nan_is_none():
    """One of zeros is no such word: without an id vector `of_catalogue` refuses it."""
    vectors = {film: np.eye(3)[theme(film)] for film in TITLES}
    vectors |= {"film 4": np.full(3, np.nan), "film 5": np.zeros(3)}
    names, start = begun(vectors)
    codes = names.codes("", ["film 4", "film 5", "film 6"])
    assert start.absent_N[codes].tolist() == [True, False, False]
    assert start.content[codes].any(axis=1).tolist() == [False, False, True]


def test_without_ids_absent_items_survive_a_folder(tmp_path):
    sets = {
        film: {"image": each["image"] if n % 3 else None}
        for n, (film, each) in enumerate(RECORDS.items())
    }
    fitted(sets, id_embedding=False).save(tmp_path / "saved")
    loaded = Recommender.load(tmp_path / "saved")
    assert not np.asarray(loaded.content["image"].mask)[0].all()
    assert loaded.recommend(["film 1"], 3).ids.size == 3


def test_going_on_describes_new_items_by_the_parts_of_before():
    recommender = fitted(TALES)
    before = recommender._served.now.start.descriptions
    recommender.add({"added": {"title": "queen"}})
    table = {"item_id": ["film 30", "film 31"], "title": ["robot", None], "genres": ["war", "?"]}
    log = fans()
    log["item"][:2] = ["film 30", "film 31"]
    how = {"epochs": 1, "more": True, **HOW}
    recommender.fit(log, content=table, **how)
    assert recommender._served.now.start.descriptions is before
    rows = on_host(recommender.content)
    codes = recommender.catalogue.names.codes("", ["added", "film 30", "film 31", "film 0"])
    assert rows["title"][codes].any(axis=1).tolist() == [True, True, False, True]
    assert rows["features"][codes].any(axis=1).tolist() == [False, True, False, True]
    recommender.fit(log, content={"film 31": {"genres": "sea"}}, **how)
    assert np.asarray(recommender.content["features"])[codes[2]].any()
    for content, message in [
        ({"film 31": "sea"}, "content: expected a table or records of title, genres, price, found"),
        ({"film 31": {"colour": 1}}, "found the column 'colour'"),
        ({"item_id": ["a", "a"], "price": [1, 2]}, "content: expected each item once, found 'a'"),
    ]:
        with pytest.raises(ValueError, match=message):
            recommender.fit(log, content=content, **how)


def lengths(texts):
    return [[1.0, "sea" in text, "king" in text, "robot" in text] for text in texts]


def test_an_encoder_of_the_callers_takes_the_packages_place(tmp_path):
    recommender = fitted(TALES, epochs=10, id_embedding=False, parts={"title": lengths})
    assert recommender.content["title"].shape == (30, 4)
    recommender.save(tmp_path / "saved")
    loaded = Recommender.load(tmp_path / "saved", parts={"title": lengths})
    lost = Recommender.load(tmp_path / "saved")
    new = {"x": {"title": "the robot"}}
    for each in (recommender, loaded):
        each.add(new)
        assert {theme(film) for film in each.similar("x", 3).ids[0]} == {2}
    lost.add({"y": {"genres": "war"}})  # asks for no text
    with pytest.raises(ValueError, match="parts: expected the encoder of 'title', given again at"):
        lost.add(new)
    with pytest.raises(ValueError, match=r"parts: expected an encoder of title, as was .*'x'"):
        Recommender.load(tmp_path / "saved", parts={"x": lengths})


@pytest.mark.long
def test_texts_by_id_take_an_encoder_too(tmp_path):
    recommender = fitted(TITLES, parts={"content": lengths})
    assert recommender.content.shape == (30, 4)
    recommender.save(tmp_path / "saved")
    loaded = Recommender.load(tmp_path / "saved", parts={"content": lengths})
    assert loaded.add({"x": "king"}).tolist() == ["x"]
    fitted(RECORDS).save(tmp_path / "own")
    with pytest.raises(ValueError, match="parts: expected no encoder, as was saved, found one of"):
        Recommender.load(tmp_path / "own", parts={"title": lengths})


def test_a_sentence_encoder_with_its_weights():
    """Words that training never had are near those it had; wordllama ships what it needs."""
    wordllama = pytest.importorskip("wordllama")
    folder = next(iter(wordllama.__path__))
    model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
    plots = ["A ship in a storm at sea", "The king and the queen", "A robot with a laser gun"]
    content = {film: {"plot": plots[theme(film)]} for film in TITLES}
    recommender = fitted(content, epochs=20, id_embedding=False, parts={"plot": model.embed})
    assert recommender.content["plot"].shape == (30, 256)
    recommender.add({"boat": {"plot": "Boats sailing on the ocean"}})
    recommender.add({"throne": {"plot": "A prince and a princess"}})
    assert theme(recommender.similar("boat", 1).ids.item()) == 0
    assert theme(recommender.similar("throne", 1).ids.item()) == 1


def test_the_caller_may_say_what_a_column_is():
    told = {"code": "id", "price": "category", "genres": "text", "title": None, "item_id": None}
    table = {"code": TALES["item_id"], **TALES, "item_id": ["?"] * 30}
    for made in (table, pd.DataFrame(table)):
        _, start = begun(made, told=told)
        assert repr(start.descriptions) == "genres (text), price (category)"
        assert start.descriptions.id_column == "code"


def test_a_column_of_the_log_names_the_ids():
    """Here `isbn` looks like the ids as much as `book_id`, and `number` not at all."""
    table = {"isbn": ["?"] * 30, "book_id": list(TITLES), "title": list(TITLES.values())}
    _, start = begun(table, usual="book_id")
    assert start.descriptions.id_column == "book_id"
    with pytest.raises(ValueError, match="content: expected one column for the item, found 'isbn'"):
        begun(table)
    numbers = {"number": np.arange(30), "price": np.arange(30.0)}
    events = {"user": fans()["user"], "number": [int(item.split()[1]) for item in fans()["item"]]}
    recommender = Recommender(CONFIG, tx=FAST)
    recommender.fit(events, content=numbers, columns={"item": "number"}, loop=untrained)
    assert recommender.content["features"].shape == (30, 2)


@pytest.mark.long
def test_content_knn_stands_in_the_report():
    recommender = Recommender(CONFIG, tx=FAST)
    table = fans(num_users=120)
    recommender.fit(table, content=RECORDS, num_negatives=16, patience=1, batch_size=32)
    report = recommender.report()
    found = {name: metrics["hr@10"] for name, metrics in report.metrics.items()}
    assert found["content-KNN"] > 3 * found["popularity"]  # users stay with one theme


@pytest.mark.long
def test_rows_may_be_dealt_over_devices_and_an_index_answers():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    one = fitted(fit={"mesh": mesh}, index=BruteForce())
    other = fitted()
    one.add({"x": COURT})
    other.add({"x": COURT})
    a, b = (each.recommend(["film 1", "film 4"], 8) for each in (one, other))
    np.testing.assert_allclose(a.scores, b.scores, atol=2e-3)
    assert one._served.mirror is not None


@pytest.mark.parametrize(
    ("content", "given", "message"),
    [
        (
            {**TALES, "made": [np.datetime64("2024-01-01")] * 30},
            {},
            "texts, tags, .* 'made', found",
        ),
        (
            {**TALES, "by": [{"name": "x"}] * 30},
            {},
            r"in 'by', found {'name': 'x'} of item 'film 0",
        ),
        (
            {**TALES, "n": [1] * 29 + ["x"]},
            {},
            "one kind of value, .*'n', found 'x' of item 'film 29",
        ),
        ({**TALES, "price": [np.inf] * 30}, {}, "a finite number in 'price', found inf of item"),
        ({**TALES, "v": [[1.0] * (2 + n // 29) for n in range(30)]}, {}, "width 2 in 'v'.*film 29"),
        ({**TALES, "item_id": ["film 0"] * 30}, {}, "each item once, found 'film 0' twice or more"),
        ({"item_id": [], "title": []}, {}, "at least one item, found an empty table"),
        ({**TALES, "item_id": TABLE["title"]}, {}, "at least half of the 30 items, found 0"),
        ({**TALES, "title": TABLE["title"][1:]}, {}, "30 values in 'title', .* found 29"),
        (
            {"name": list(TITLES), "title": TABLE["title"]},
            {},
            "a column for the item such as item_id",
        ),
        ({**RECORDS, "film 3": "x"}, {}, "a record for each item, found 'x' of item 'film 3'"),
        (
            {film: {"title": None} for film in TITLES},
            {},
            "a column that says something of the items",
        ),
        (TALES, {"item_id": "tags"}, None),
        (TALES, {"year": "number"}, "columns of content .*, found 'year'"),
        (None, {"title": lengths}, "content by the caller's own ids, found content of nothing"),
        (TITLES, {"title": "tags"}, "columns of content .content., found 'title'"),
    ],
)
def test_bad_descriptions_are_refused_by_name(content, given, message):
    recommender = Recommender(CONFIG, parts=given)
    expected = "content: expected" if not given else "(parts|content): expected"
    with pytest.raises(ValueError, match=f"^{expected} .*{message or ''}") as caught:
        recommender.fit(fans(), content=content, epochs=1)
    assert "\n" not in str(caught.value)


def test_parts_are_of_own_ids(tmp_path):
    drawn(TINY, None, num_items=N).save(tmp_path / "saved")
    with pytest.raises(ValueError, match="parts: expected no encoder, as was saved, found one of"):
        Recommender.load(tmp_path / "saved", parts={"title": lengths})
    for recommender, events in [
        (Recommender(num_items=3, parts={"a": "tags"}), [[0, 1]]),
        (Recommender(parts={"a": "tags"}), [[0, 1]]),
    ]:
        with pytest.raises(ValueError, match="parts: expected content by the caller's own ids"):
            recommender.fit(events)
    with pytest.raises(ValueError, match=r"parts: expected text, .*'a', found 'word'"):
        Recommender(parts={"a": "word"})
