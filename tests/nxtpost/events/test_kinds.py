"""Kinds of columns: told by their values, refused by name where they cannot be told."""

import datetime
import decimal

import numpy as np
import pytest

from nxtpost_jax.events.item_tables import Column
from nxtpost_jax.events.kinds import MOST_CATEGORIES, checked_parts, kind_of, told_id

GENRES = ["Drama|War", "Drama", "War|Comedy", "Comedy|Drama"]


def kind(values):
    return kind_of(Column("x", range(len(values)), values))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([["a", "b"], ["c"], None], "tags"),
        ([{"a"}, [], ("b",)], "tags"),
        ([np.array(["a", "b"])], "tags"),
        (GENRES, "tags"),
        (["Left | Right", "Up | Down", "a title"], "text"),  # no piece recurs
        (["red", "blue", "red", "blue "], "category"),
        (["red", "blue", "green", "red"], "text"),  # 3 of 4 texts differ
        ([str(n % (MOST_CATEGORIES + 1)) for n in range(1000)], "text"),
        ([str(n % MOST_CATEGORIES) for n in range(1000)], "category"),
        (["a storm", "a queen", None], "text"),
        ([1, 2.5, None], "number"),
        ([True, False, np.bool_(True), np.float32(1), decimal.Decimal("3.5")], "number"),
        ([[1.0, 2.0], (3, 4), np.ones(2)], "vector"),
        ([np.ones((2, 3)), [[1.0, 2, 3]], []], "set"),
        ([[np.ones(3), np.ones(3)], None], "set"),
        ([None, None], None),
        ([[], None], None),
    ],
)
def test_a_kind_is_told_by_the_values(values, expected):
    assert kind(values) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([datetime.date(2024, 1, 2)], r"texts, tags, numbers or vectors in 'x', found datetime"),
        ([np.datetime64("2024-01-02")], r"numbers or vectors in 'x', found .*2024-01-02"),
        ([None, {"a": 1}], r"found {'a': 1} of item 1 \(parts={'x': None} leaves it out\)"),
        ([["a", 1]], r"found \['a', 1\] of item 0"),
        ([{1, 2}], r"found {1, 2} of item 0"),
        ([np.ones((1, 2, 3))], "found array"),
        ([1j], "found 1j of item 0"),
        (
            [3.5, "cheap"],
            r"one kind of value, such as 3\.5 in 'x', found 'cheap' of item 1 \(parts",
        ),
        ([[1.0], [[1.0]]], r"one kind of value, such as \[1\.0\] in 'x', found \[\[1\.0\]\]"),
        ([["a"], "a"], r"one kind of value, such as \['a'\] in 'x', found 'a' of item 1"),
    ],
)
def test_what_has_no_kind_is_named(values, message):
    with pytest.raises(ValueError, match=f"content: expected .*{message}") as caught:
        kind(values)
    assert "\n" not in str(caught.value)


def test_what_the_caller_says():
    parts = {"a": "tags", "b": len, "c": None, "d": "id"}
    assert checked_parts(parts) == parts and told_id(parts) == "d"
    assert checked_parts(None) == {} and told_id({}) is None
    for broken, message in [
        ([1], "a kind or an encoder by column, found a list"),
        ({"a": "words"}, "text, tags, .* a function of texts or None for 'a', found 'words'"),
        ({"a": 3}, ".* or None for 'a', found 3"),
        ({"a": "id", "b": "id"}, "one column of ids, found a and b"),
    ]:
        with pytest.raises(ValueError, match=f"parts: expected {message}"):
            checked_parts(broken)
