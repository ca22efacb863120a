"""Parts of descriptions: fitted on what is taught, zeros for what it does not know."""

import numpy as np
import pytest

from nxtpost_jax.events import parts
from nxtpost_jax.events.item_tables import Column


def column(*values):
    return Column("x", [f"i{n}" for n in range(len(values))], list(values))


def fitted(kind, *values, taught=None, **rest):
    rows = range(len(values)) if taught is None else taught
    return parts.fit(column(*values), kind, taught=rows, **rest)


def again(part, **rest):
    return parts.restore(part.kind, part.stored(), **{"encoder": None, **rest})


def test_tags_of_training_items_alone_count():
    part = fitted("tags", "b|a", ["a", "c"], None, "only here", taught=[0, 1, 2])
    assert part.words == ("a", "b", "c") and part.width == 3
    marks = part(column("a|b", ["c", "new"], "new", None, ["a", "a"], {"b"}))
    half = 0.5**0.5
    expected = [[half, half, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]]
    np.testing.assert_allclose(marks, expected, rtol=1e-6)
    assert marks.dtype == np.float32
    np.testing.assert_array_equal(again(part)(column("a|b")), marks[:1])


def test_a_category_is_not_split_and_numbers_may_be_one():
    part = fitted("category", "a|b", "a", 1999, 2000.0, None)
    assert part.words == ("1999", "2000", "a", "a|b")
    assert part(column("a|b", 1999.0, "2000", "b")).tolist() == [
        [0, 0, 0, 1],
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 0],
    ]
    assert again(part).kind == "category"


def test_the_most_frequent_tags_are_kept(monkeypatch):
    monkeypatch.setattr(parts, "MOST_TAGS", 2)
    assert fitted("tags", "a|b", "c|b", "c", "d").words == ("b", "c")


def test_tags_of_any_signs_survive():
    words = ["a\nb", "z\0", "東京", "\ud800"]
    part = fitted("tags", words)
    assert again(part).words == part.words == tuple(sorted(words))


def test_numbers_become_ranks_and_a_mark():
    rng = np.random.default_rng(0)
    heavy = np.exp(4 * rng.normal(size=999))
    part = fitted("number", *heavy.tolist())
    ranks, mark = part(column(*heavy.tolist())).T
    order = np.argsort(heavy)
    np.testing.assert_allclose(ranks[order], np.linspace(-1, 1, 999), atol=0.02)
    assert mark.all() and abs(ranks.mean()) < 0.01
    assert part(column(None, 1e300, -1.0)).tolist() == [[0, 0], [1, 1], [-1, 1]]
    np.testing.assert_array_equal(again(part)(column(3.0)), part(column(3.0)))


def test_ranks_do_not_ask_for_the_unit():
    dollars = np.random.default_rng(1).lognormal(size=50)
    one, other = (fitted("number", *(scale * dollars).tolist()) for scale in (1, 100))
    np.testing.assert_allclose(
        one(column(*dollars.tolist())), other(column(*(100 * dollars).tolist())), atol=1e-5
    )


def test_bools_and_equal_numbers_have_middle_ranks():
    part = fitted("number", *[False] * 9, True)
    low, high = part(column(False, True))[:, 0]
    assert -0.15 < low < -0.05 and 0.85 < high < 0.95
    assert fitted("number", 7, 7)(column(7, 8)).tolist() == [[0, 1], [0, 1]]
    assert fitted("number", "7", " 9.5 ", taught=[1])(column("1")).tolist() == [[0, 1]]


def test_numbers_of_training_items_alone_count():
    part = fitted("number", 1.0, 2.0, 1e9, None, taught=[0, 1, 3])
    assert part.points.max() == 2.0


def test_vectors_are_taken_as_they_are():
    part = fitted("vector", None, [1, 2], np.array([3.0, 4.0]))
    vectors = part(column([1, 2], None, [np.nan, np.nan], (0.5, 0)))
    assert vectors.tolist() == [[1, 2], [0, 0], [0, 0], [0.5, 0]]
    assert vectors.dtype == np.float32 and again(part).width == 2


def test_sets_are_padded_and_longer_ones_cut(monkeypatch):
    part = fitted("set", [[1.0, 2.0]], np.ones((3, 2)), None)
    assert (part.size, part.width) == (3, 2)
    found = again(part)(column([[1.0, 2.0], [0, 0]], np.arange(8.0).reshape(4, 2), None))
    assert found.vectors.shape == (3, 3, 2)
    assert found.mask.tolist() == [[True, False, False], [True] * 3, [False] * 3]
    assert found.vectors[1].tolist() == [[0, 1], [2, 3], [4, 5]] and not found.vectors[2].any()
    monkeypatch.setattr(parts, "MOST_IN_SET", 2)
    assert fitted("set", np.ones((3, 2))).size == 2


def lengths(texts):
    assert texts and all(isinstance(text, str) and text.strip() for text in texts)
    return [[len(text), 1.0] for text in texts]


def test_a_text_of_no_known_word_is_zeros():
    part = fitted("text", "storm at sea", "the queen", "robot", taught=[0, 1])
    vectors = part(column("a storm", "robot", None, "  ", ["the", "queen"]))
    assert vectors.any(axis=1).tolist() == [True, False, False, False, True]
    np.testing.assert_array_equal(again(part)(column("a storm")), vectors[:1])


def test_an_encoder_of_the_callers_reads_texts_and_is_given_again():
    part = fitted("text", None, "abc", encoder=lengths)
    assert part(column("ab", None, " ")).tolist() == [[2, 1], [0, 0], [0, 0]]
    lost = again(part)
    assert lost(column(None)).tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="parts: expected the encoder of 'x', given again at load"):
        lost(column("ab"))
    assert again(part, encoder=lengths)(column("ab")).tolist() == [[2, 1]]


@pytest.mark.parametrize(
    ("encoder", "found"),
    [
        (lambda texts: np.ones(len(texts)), r"ndarray\[1\]"),
        (lambda texts: np.ones((len(texts) + 1, 2)), r"ndarray\[2, 2\]"),
        (lambda texts: [[np.nan]] * len(texts), r"list\[1, 1\]"),
        (lambda texts: [["a"]], "list"),
        (lambda texts: 3.0, r"float\[\]"),
    ],
)
def test_what_an_encoder_may_not_give(encoder, found):
    with pytest.raises(ValueError, match=rf"finite vectors \[1, 'C'\] of the .*'x', found {found}"):
        fitted("text", "a", encoder=encoder)


def test_without_a_text_an_encoder_has_no_width():
    with pytest.raises(ValueError, match="content: expected a text in 'x', found none"):
        fitted("text", None, " ", encoder=lengths)


def test_an_encoder_keeps_its_width():
    part = fitted("text", "a", encoder=lambda texts: np.ones((len(texts), len(texts))))
    with pytest.raises(ValueError, match=r"parts: expected finite vectors \[2, 1\] of the encoder"):
        part(column("a", "b"))


@pytest.mark.parametrize(
    ("kind", "good", "bad", "message"),
    [
        ("number", 1, np.inf, "a finite number in 'x', found inf of item 'i1'"),
        ("number", 1, "cheap", "a finite number in 'x', found 'cheap'"),
        ("number", 1, 10**400, "a finite number in 'x', found 1000"),
        ("number", 1, [1], r"a finite number in 'x', found \[1\]"),
        ("tags", "a", [["b"]], "a tag or a list of tags in 'x'"),
        ("text", "a", {"b": 1}, "a text in 'x', found {'b': 1}"),
        ("vector", [1, 2], [1, 2, 3], r"numbers of width 2 in 'x', found .* 'i1' \(parts=.*'tags'"),
        ("vector", [1, 2], [1, np.inf], "a vector of finite numbers of width 2"),
        ("vector", [1, 2], [1, None], "a vector of finite numbers of width 2"),
        ("vector", [1, 2], [1, 1e300], "a vector of finite numbers of width 2"),
        ("vector", [1, 2], 3, "a vector of finite numbers of width 2"),
        ("set", [[1, 2]], [[1, 2], [3]], "vectors of finite numbers of width 2"),
        ("set", [[1, 2]], [[1, 2, 3]], "vectors of finite numbers of width 2"),
        ("set", [[1, 2]], [[1, np.nan]], "vectors of finite numbers of width 2"),
        ("set", [[1, 2]], [1, 2], "vectors of finite numbers of width 2"),
    ],
)
def test_values_of_another_kind_are_named(kind, good, bad, message):
    part = fitted(kind, good)
    with pytest.raises(ValueError, match=f"content: expected .*{message}") as caught:
        part(column(good, bad))
    assert "\n" not in str(caught.value)
