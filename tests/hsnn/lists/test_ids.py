"""Ids of any hashable kind go in and come out as they are, and none becomes another's."""

import datetime
import uuid

import numpy as np
import pytest

from hsnn_jax import LTIConfig, Retriever
from hsnn_jax.lists.ids import as_ids, rows_of, table_of, with_free_rows, with_new, without
from tests.hsnn.planted import clusters, integers

ITEMS, _ = clusters(0, items=40, width=8, num_clusters=4, noise=0.5)
KINDS = {
    "integers": 7 * np.arange(40),
    "integers beyond 32 bits": 2**62 + 2**33 * np.arange(40) // 41,
    "a list of integers": [int(i) for i in 5 * np.arange(40)],
    "strings": [f"item {i}" for i in range(40)],
    "an array of strings": np.array([f"no. {i} é" for i in range(40)]),
    "UUIDs": [uuid.UUID(int=i) for i in range(40)],
    "tuples": [("shop", i) for i in range(40)],
    "strings and integers": [i if i % 2 else str(i) for i in range(40)],
    "days": np.datetime64("2020-01-01") + np.arange(40),
}


def built(ids):
    retriever = Retriever(LTIConfig(num_nodes=4, kmeans_iterations=3))
    retriever.build_index(ITEMS, item_ids=ids, reserve=2)
    return retriever


def plain(ids):
    return ids.tolist() if isinstance(ids, np.ndarray) else list(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_go_in_and_come_out(kind):
    ids = plain(KINDS[kind])
    retriever = built(KINDS[kind])
    users = ITEMS[:3]
    best = np.argsort(-(users @ ITEMS.T), axis=1)
    nothing = -1 if "integers" in kind and "strings" not in kind else None
    found = retriever.search(users, 42, budget=40)
    assert found.ids[:, :40].tolist() == [[ids[row] for row in rows] for rows in best]
    assert (found.ids[:, 40:] == nothing).all()
    assert [i for i, _ in found.pairs(1)] == [ids[row] for row in best[1]]
    exclude = [[ids[row], nothing] for row in best[:, 0]]
    second = retriever.search(users, 1, budget=40, exclude=exclude)
    assert second.ids[:, 0].tolist() == [ids[row] for row in best[:, 1]]
    few = retriever.search(users, 3, allowed=[ids[5], ids[7]])
    assert {i for row in few.ids[:, :2].tolist() for i in row} == {ids[5], ids[7]}
    retriever.remove([ids[5]])
    retriever.upsert(9 * ITEMS[[5, 7]], [ids[5], ids[7]])
    retriever.reassign(ITEMS[[7]], [ids[7]])
    assert retriever.search(9 * ITEMS[[5]], 1, budget=40).ids.tolist() == [[ids[5]]]
    with pytest.raises(ValueError, match="ids: expected ids that the index holds, found"):
        retriever.remove([10**6 if nothing == -1 else "nobody"])
    assert sorted(map(str, retriever.ids)) == sorted(map(str, [*ids, nothing, nothing]))


@pytest.mark.parametrize("kind", ["integers beyond 32 bits", "strings", "strings and integers"])
def test_saved_ids_are_what_they_were(tmp_path, kind):
    retriever = built(KINDS[kind])
    retriever.remove([plain(KINDS[kind])[3]])
    retriever.save(tmp_path / "saved")
    loaded = Retriever.load(tmp_path / "saved")
    assert loaded.ids.tolist() == retriever.ids.tolist()
    assert [type(i) for i in loaded.ids] == [type(i) for i in retriever.ids]
    np.testing.assert_array_equal(loaded.search(ITEMS, 3).ids, retriever.search(ITEMS, 3).ids)


@pytest.mark.parametrize("kind", ["UUIDs", "tuples", "days"])
def test_ids_that_a_file_cannot_hold_are_refused_before_it_is_written(tmp_path, kind):
    with pytest.raises(ValueError, match="item_ids: expected strings or integers in a file"):
        built(KINDS[kind]).save(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (lambda r: r.add(ITEMS[:1], ["item 3"]), "ids: expected new ones, found item 3"),
        (lambda r: r.add(ITEMS[:2], ["a", "a"]), "ids: expected distinct ids, found 'a' twice"),
        (lambda r: r.add(ITEMS[:1], [None]), "ids: expected ids, found None"),
        (lambda r: r.add(ITEMS[:1], [["a"]]), r"ids: expected hashable ids, found \['a'\]"),
        (lambda r: r.add(ITEMS[:1], "a"), "ids: expected a list of ids, found 'a'"),
        (lambda r: r.add(ITEMS[:1], ["a", "b"]), r"ids: expected shape \[1\], found \[2\]"),
        (lambda r: r.search(ITEMS[:2], 1, exclude=["ab", "cd"]), "exclude: expected rows of ids"),
        (
            lambda r: r.search(ITEMS[:2], 1, exclude=[["a"], ["b", "c"]]),
            r"exclude: expected rows of one length, found \[1, 2\]",
        ),
        (
            lambda r: r.search(ITEMS[:2], 1, exclude=[["a"]]),
            r"exclude: expected shape \[2, E\], one row per user, found \[1, 1\]",
        ),
        (lambda r: r.remove(["item 1", 2**64]), "ids: expected integers below 2"),
    ],
)
def test_bad_ids_among_strings(update, message):
    with pytest.raises(ValueError, match=message):
        update(built(KINDS["strings"]))


def test_an_index_of_integers_takes_no_others():
    retriever = built(KINDS["integers"])
    for use in (
        lambda: retriever.add(ITEMS[:1], ["a"]),
        lambda: retriever.search(ITEMS[:1], 1, allowed=["a"]),
        lambda: retriever.search(ITEMS[:1], 1, exclude=[["a"]]),
    ):
        with pytest.raises(ValueError, match=r"expected integers, found dtype <U1, such as 'a'"):
            use()


@pytest.mark.parametrize("kind", ["integers", "strings"])
def test_tables_follow_what_comes_and_goes(kind):
    rng, named = np.random.default_rng(0), kind == "strings"
    name = (lambda i: f"n{i}") if named else int
    ids = with_free_rows(as_ids("ids", [name(i) for i in range(6)]), 6)
    truth, table = {name(i): i for i in range(6)}, table_of(ids)
    for step in range(20):
        gone = rng.choice(sorted(truth), 2, replace=False).tolist()
        gone_ids = as_ids("ids", gone, like=ids)
        table = without(table, gone_ids, rows=rows_of(table, gone_ids))
        free = sorted(set(range(12)) - {truth[i] for i in truth if i not in gone})[:2]
        truth = {i: row for i, row in truth.items() if i not in gone}
        new = as_ids("ids", [name(100 + 2 * step), name(99 - 2 * step)], like=ids)
        table = with_new(table, new, rows=np.array(free))
        truth |= dict(zip(new.tolist(), free))
        known = as_ids("ids", sorted(truth), like=ids)
        assert rows_of(table, known).tolist() == [truth[i] for i in sorted(truth)]
        assert dict(zip(table.ids.tolist(), table.rows.tolist())) == truth
        assert rows_of(table, as_ids("ids", [name(10**6)], like=ids)).tolist() == [-1]


def test_numpys_scalars_are_python_values():
    ids = as_ids("ids", [np.str_("a"), np.int64(3)])
    assert [type(i) for i in ids] == [str, int]
    days = as_ids("ids", np.array(["2020-01-02"], "datetime64[D]"))
    assert days.tolist() == [datetime.date(2020, 1, 2)]
    assert as_ids("ids", integers(0, 1)[:0]).dtype == np.int64
