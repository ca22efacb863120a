"""Descriptions of items as channels of content."""

import jax
import numpy as np
import pytest

from nxtpost_jax.events.content import ContentSet, absent_on_host, check
from nxtpost_jax.events.descriptions import Descriptions

IDS = ["a", "b", "c", "d"]
COLUMNS = {
    "my title": ["storm at sea", "queen of the sea", "robot on the moon", None],
    "genres": ["x|y", "y|x", "x", None],
    "price": [1.0, 2.0, None, None],
    "image": [np.ones((2, 3)), None, np.ones((1, 3)), None],
    "colour vector": [[1, 0], [0, 1], None, None],
    "blank": [None] * 4,
}


def lengths(texts):
    return [[len(text), 1.0] for text in texts]


def fitted(columns=COLUMNS, *, taught=(0, 1, 2), told=None, **rest):
    return Descriptions.fit(columns, IDS, taught=taught, told=told or {}, **rest)


def test_columns_become_channels_and_features_one():
    read = fitted()
    content = read(COLUMNS, IDS)
    assert set(content) == {"my_title", "features", "image", "colour_vector"}
    assert isinstance(content["image"], ContentSet)
    assert content["features"].shape == (4, 4) and content["my_title"].shape == (4, 128)
    assert absent_on_host(content).tolist() == [False, False, False, True]
    check(content, num_items=4, allow_missing=True)  # what the towers take
    assert repr(read) == (
        "my title (text), genres (tags), price (number), image (set), colour vector (vector)"
    )


def test_an_item_is_read_by_the_columns_it_has():
    read = fitted()
    content = read({"genres": ["y", "unknown"], "blank": [3, None]}, ["new", "other"])
    assert content["features"][0].any() and not content["my_title"].any()
    assert not content["image"].mask.any()
    assert absent_on_host(content).tolist() == [False, True]
    with pytest.raises(
        ValueError, match=r"content: expected my title, .*, found the column 'titel'"
    ):
        read({"titel": ["x"]}, ["new"])


def test_what_an_item_does_not_say_is_usual():
    """A number that each item of training has is taken for the middle, else for none."""
    columns = {"genres": ["x", "y", "x", "y"], "price": [1, 2, 3, 4], "year": [1, None, 2, 3]}
    read = fitted(columns)
    some, nothing = read({"genres": ["x", None]}, ["new", "other"])["features"]
    assert some.tolist() == [1, 0, 0, 1, 0, 0] and not nothing.any()
    whole = read({"genres": [None], "price": [4], "year": [3]}, ["new"])["features"][0]
    assert whole[:2].tolist() == [0, 0] and whole[3] == whole[5] == 1 and whole[4] > 0.5


def test_training_items_alone_teach():
    """Words, tags and numbers of others change nothing, and a column of theirs is left out."""
    columns = {
        "my title": [*COLUMNS["my title"][:3], "lantern"],
        "genres": [*COLUMNS["genres"][:3], "z"],
        "price": [*COLUMNS["price"][:3], 99.0],
        "image": COLUMNS["image"],
        "colour vector": COLUMNS["colour vector"],
        "blank": [None, None, None, "lantern"],
    }
    read = fitted(columns)
    assert read.left_out == ("blank",)
    ours = fitted()
    for a, b in zip(read.parts.values(), ours.parts.values()):
        for name, array in a.stored().items():
            np.testing.assert_array_equal(array, b.stored()[name])


def test_what_the_caller_says_goes_before_the_values():
    told = {"my title": lengths, "genres": "category", "image": None, "price": "text"}
    read = fitted(told=told)
    kinds = {name: part.kind for name, part in read.parts.items()}
    assert kinds == {
        "my title": "text",
        "genres": "category",
        "price": "text",
        "colour vector": "vector",
    }
    assert read.parts["genres"].words == ("x", "x|y", "y|x")
    assert read(COLUMNS, IDS)["my_title"][0].tolist() == [len("storm at sea"), 1]
    assert "image" in read.known


@pytest.mark.parametrize("told", [None, {"my title": lengths}])
def test_it_survives_as_plain_arrays(tmp_path, told):
    read = fitted(told=told, id_column="the id")
    np.savez(tmp_path / "it.npz", **read.stored())
    with np.load(tmp_path / "it.npz", allow_pickle=False) as arrays:
        restored = Descriptions.restore(dict(arrays), told=told or {})
    assert repr(restored) == repr(read) and restored.known == read.known
    assert restored.id_column == "the id" and not restored.alone
    one, other = read(COLUMNS, IDS), restored(COLUMNS, IDS)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_encoders_of_nothing_are_refused():
    stored = fitted(told={"my title": lengths}).stored()
    for told in ({"titel": lengths}, {"genres": lengths}):
        with pytest.raises(
            ValueError, match="parts: expected an encoder of my title, as was saved"
        ):
            Descriptions.restore(stored, told=told)
    with pytest.raises(ValueError, match="parts: expected no encoder, as was saved, found one of"):
        Descriptions.restore(fitted().stored(), told={"my title": lengths})


def test_names_of_channels_are_words_and_differ():
    columns = {
        "a b": [[1.0]] * 4,
        "a_b": [[1.0]] * 4,
        "2nd": [[1.0]] * 4,
        "a²": [[1.0]] * 4,
        "features": [[1.0]] * 4,
        "": [[1.0]] * 4,
        "class/": [[1.0]] * 4,
        "n": [1, 2, 3, 4],
    }
    content = fitted(columns)(columns, IDS)
    assert all(name.isidentifier() for name in content) and len(content) == len(columns)
    check(content)
    assert content["features"].shape == (4, 2)  # of n


def test_one_text_or_vector_each_has_no_name():
    texts = COLUMNS["my title"]
    read = Descriptions.of_one(texts, IDS, kind="text", taught=[0, 1, 2], told={})
    assert read({"content": texts}, IDS).shape == (4, 128) and read.alone
    read = Descriptions.of_one(texts, IDS, kind="text", taught=[0, 1, 2], told={"content": lengths})
    assert read({"content": texts}, IDS).tolist()[1] == [len(texts[1]), 1]
    for told, kind in [({"content": "tags"}, "text"), ({"content": lengths}, "vector")]:
        with pytest.raises(ValueError, match="parts: expected an encoder of texts for 'content'"):
            Descriptions.of_one([[1.0]] * 4, IDS, kind=kind, taught=[0], told=told)


@pytest.mark.parametrize(
    ("columns", "told", "message"),
    [
        (COLUMNS, {"titel": "text"}, r"parts: expected columns of content \(my title, .*'titel'"),
        (COLUMNS, {"blank": "tags"}, "content: expected a value in 'blank' of some item of the ev"),
        ({"blank": [None] * 4}, {}, "content: expected a column that says something .*'blank'"),
        ({}, {}, "content: expected a column that says something .* none"),
        (COLUMNS, {"price": "vector"}, "content: expected a vector of finite .* in 'price'"),
        ({"n": [1, "b", 2, 3]}, {}, "content: expected one kind of value"),
    ],
)
def test_what_says_nothing_is_refused(columns, told, message):
    with pytest.raises(ValueError, match=message):
        fitted(columns, told=told)
