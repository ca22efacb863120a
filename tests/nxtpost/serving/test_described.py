"""Content under the caller's own ids: texts and vectors, at the start and later."""

import dataclasses

import numpy as np
import pytest

from nxtpost_jax.serving.recommender import Recommender
from tests.nxtpost.small_recommender import FAST, TINY, N, circle, untrained

PLACES = [f"p{n}" for n in range(N)]
CONFIG = dataclasses.replace(TINY, time_features=False)
THEMES = ["sea ship storm", "king queen castle", "robot laser planet"]
TITLES = {f"film {n}": f"{THEMES[n % 3]} part {'i' * (n + 2)}" for n in range(30)}


def fans(num_users=90, length=6):
    """Every user stays with one theme."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(num_users), length)
    films = [f"film {3 * rng.integers(10) + user % 3}" for user in users]
    return {"user": users, "item": films}


@pytest.fixture(scope="module")
def fitted():
    recommender = Recommender(dataclasses.replace(CONFIG, id_embedding=False), tx=FAST)
    recommender.fit(fans(), content=TITLES, epochs=30, batch_size=32, num_negatives=16)
    return recommender


def theme(film):
    return int(film.split()[1]) % 3


def test_texts_are_content(fitted):
    answer = fitted.recommend([["film 0", "film 3"], ["film 1"]], 5)
    assert [{theme(film) for film, _ in answer.pairs(row)} for row in range(2)] == [{0}, {1}]


def test_a_new_title_is_found_at_once_and_moves_no_other(fitted, tmp_path):
    recommender = fitted
    before = recommender.similar("film 0", 3).ids.tolist()
    recommender.save(tmp_path / "saved")
    for reader in (recommender, Recommender.load(tmp_path / "saved")):
        added = reader.add({"new": "A storm at sea: the ship", "other": "the queen and the king"})
        assert added.tolist() == ["new", "other"]
        assert reader.add("Laser robot", "third").tolist() == ["third"]
        assert reader.add(["planet", "castle"], ["4th", "5th"]).tolist() == ["4th", "5th"]
        near = [reader.similar(item, 3).ids[0].tolist() for item in ("new", "other", "third")]
        for place, films in enumerate(near):
            films = [film for film in films if film.startswith("film")]
            assert films and {theme(film) for film in films} == {place}
        assert "new" in reader.recommend(["film 0", "film 3"], 12).ids
        new = ["new", "other", "third", "4th", "5th"]
        assert reader.recommend(["new"], 3, exclude=new).ids.size == 3
        reader.remove(new)
        assert reader.similar("film 0", 3).ids.tolist() == before


def test_a_text_without_a_known_word_is_refused_by_name(fitted):
    with pytest.raises(
        ValueError,
        match=r"content: expected a text with a word that training had, "
        r"found 'zzz' of item 'strange'",
    ):
        fitted.add({"strange": "zzz"})
    with pytest.raises(ValueError, match=r"histories: expected item ids .* found 'strange'"):
        fitted.recommend(["strange"], 1)


def test_items_without_a_text_are_known_by_their_ids():
    some = {film: title if n % 3 else "" for n, (film, title) in enumerate(TITLES.items())}
    some["film 1"] = None
    recommender = Recommender(CONFIG, tx=FAST)
    recommender.fit(fans(), content=some, epochs=1, batch_size=32, num_negatives=16)
    assert not np.asarray(recommender.content[:30])[0].any()
    assert set(recommender.items.tolist()) == set(TITLES)


def test_an_item_without_events_is_there_by_its_text():
    later = TITLES | {"fresh": "storm ship sea"}
    recommender = Recommender(CONFIG, tx=FAST)
    table = fans()
    recommender.fit(table, content=later, epochs=30, batch_size=32, num_negatives=16)
    assert "fresh" in recommender.items.tolist()
    near = recommender.similar("fresh", 3).ids[0].tolist()
    assert {theme(film) for film in near} == {0}
    # and gone with the next table that does not know it
    recommender.fit(table, content=TITLES, loop=untrained)
    assert "fresh" not in recommender.items.tolist()


def test_only_trained_items_teach_words():
    recommender = Recommender(CONFIG, tx=FAST)
    recommender.fit(fans(), content=TITLES | {"fresh": "onlyhere storm"}, loop=untrained)
    with pytest.raises(ValueError, match="a word that training had, found 'onlyhere'"):
        recommender.add({"new": "onlyhere"})


def test_vectors_are_content_too(tmp_path):
    vectors = dict(zip(PLACES, circle(np.arange(N))))
    walks = {"user": np.repeat(np.arange(48), 6)}
    walks["item"] = [PLACES[(u + s) % N] for u, s in zip(walks["user"], list(range(6)) * 48)]
    recommender = Recommender(dataclasses.replace(CONFIG, id_embedding=False), tx=FAST)
    recommender.fit(walks, content=vectors, epochs=30, batch_size=32, num_negatives=16)
    (between,) = circle([7.5])
    assert recommender.add(between, "new").tolist() == ["new"]
    assert recommender.add({"twin": between.tolist()}).tolist() == ["twin"]
    assert recommender.similar("new", 1).ids.item() == "twin"
    assert set(recommender.similar("twin", 3).ids[0]) == {"new", "p7", "p8"}
    for content, message in [
        ({"n": "a title"}, "content: expected vectors, as at fit, found the text 'a title'"),
        ({"n": np.ones(3)}, r"content: expected one item's as content \[\[6\]\], found"),
    ]:
        with pytest.raises(ValueError, match=message):
            recommender.add(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {f"0{film}": title for film, title in TITLES.items()},
            r"at least half of the 30 items, found 0 \(the events have 'film \d+', the content '0f",
        ),
        (
            {},
            r"at least half of the 30 items, found 0 \(the events have 'film \d+', the content no",
        ),
        (list(TITLES.values()), "a text or a vector by item id, found a list"),
        (
            {film: [1, 2] if n else "a" for n, film in enumerate(TITLES)},
            "a text or a vector",
        ),
        (
            {film: np.ones(2 + n % 2) for n, film in enumerate(TITLES)},
            "of one width per item",
        ),
        (
            {film: object() for film in TITLES},
            "a vector of one width per item, found obj",
        ),
    ],
)
def test_content_of_other_items_or_none_is_refused(content, message):
    with pytest.raises(ValueError, match=f"content: expected .*{message}"):
        Recommender(CONFIG).fit(fans(), content=content)


def test_content_stands_beside_a_table_with_own_ids():
    for recommender, events in [
        (Recommender(), [[0, 1]]),
        (Recommender(num_items=3), {"user": [1], "item": [2]}),
    ]:
        with pytest.raises(ValueError, match="content: expected None but beside a table"):
            recommender.fit(events, content={1: "a"})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.add({"a": "storm"}, ids=["b"]), "ids: expected None beside content by id"),
        (
            lambda r: r.add(["storm", "sea"], ["b"]),
            "content: expected 1 of it, .* found 2",
        ),
        (lambda r: r.add("storm"), "ids: expected the new items' ids, .* found None"),
        (lambda r: r.add({"film 1": "storm"}), "ids: expected new ones, found film 1 in the catal"),
        (lambda r: r.add({7: "storm"}), "ids: expected texts as the other ids, found 7"),
        (lambda r: r.add({}), "content: expected that of one item at least, found none"),
    ],
)
def test_what_cannot_be_added_is_refused(fitted, call, message):
    before = fitted.items.tolist()
    with pytest.raises(ValueError, match=message):
        call(fitted)
    assert fitted.items.tolist() == before
