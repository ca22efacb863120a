import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsnn_jax import LTIConfig, Retriever
from hsnn_jax.descent.search import brute_force, search
from hsnn_jax.lists import edits, living
from hsnn_jax.lists.assignment import assign, assign_rows
from hsnn_jax.lists.drift import needs_rebuild
from hsnn_jax.lists.index import build_index, live
from hsnn_jax.monn.scorers import dot
from hsnn_jax.serving import state as nested
from tests.hsnn.planted import clusters, integers

# Small integers: distances and scores are exact, so that ties are ties everywhere.
START, RESERVE, NODES, WIDTH, USERS = 16, 12, 5, 3, 4
ROWS = START + RESERVE
K = 6


def started(seed=0, slack=1.1):
    items, nodes = integers(seed, START, WIDTH), integers(seed + 1, NODES, WIDTH)
    index = build_index(items, nodes, slack=slack, reserve=RESERVE)
    ids = np.full(ROWS, -1)
    ids[:START] = 100 + np.arange(START)
    return living.start(index, items, ids=ids), dict(zip(ids[:START].tolist(), items))


def distances_to(nodes, vectors):
    return np.linalg.norm(vectors[:, None].astype(float) - np.asarray(nodes)[None], axis=2)


def check_consistent(now, truth):
    """Every live item is in one slot, and all bookkeeping says the same."""
    index = jax.device_get(now.index)
    rows = np.flatnonzero(now.ids >= 0)
    assert {int(i) for i in now.ids[rows]} == set(truth)
    assert sorted(index.lists[index.lists >= 0]) == rows.tolist()
    np.testing.assert_array_equal(index.counts, (index.lists >= 0).sum(axis=1))
    last = [max(np.flatnonzero(ids >= 0), default=-1) for ids in np.asarray(index.lists)]
    np.testing.assert_array_equal(index.extents, np.array(last) + 1)
    np.testing.assert_array_equal(np.asarray(live(now.index)), now.ids >= 0)
    np.testing.assert_array_equal(index.lists.ravel()[index.positions[rows]], rows)
    assert (index.positions[now.ids < 0] == index.lists.size).all()
    np.testing.assert_array_equal(now.ids[now.rows[1]], now.rows[0])
    by_row = np.asarray(living.item_vectors(now))
    for row in rows:
        np.testing.assert_array_equal(by_row[row], truth[int(now.ids[row])])
    for node, listed in enumerate(index.lists):
        listed = listed[listed >= 0]
        best = index.representatives[node]
        if not listed.size:
            assert best == -1
            continue
        gaps = distances_to(index.nodes[node : node + 1], by_row[listed])[:, 0]
        assert best in listed[gaps == gaps.min()]
    wanted = distances_to(index.nodes, by_row[rows]).argmin(axis=1)
    assert index.overflow == (wanted != index.positions[rows] // index.lists.shape[1]).sum()


def answers(now, users, **masks):
    found = search(
        dot,
        None,
        index=now.index,
        items=now.tiles,
        users=users,
        k=K,
        budget=max(ROWS, now.index.lists.shape[1]),
        **masks,
    )
    return np.where(found.ids < 0, -1, now.ids[found.ids]), np.asarray(found.scores), found.ids


def check_search(now, seed):
    """A full beam finds what a sort of all live items finds, exclusions and filters included."""
    users = jnp.asarray(integers(seed + 7, USERS, WIDTH))
    rng = np.random.default_rng(seed)
    exclude = rng.integers(-1, ROWS, (USERS, 5)).astype(np.int32)  # free rows among them
    allowed = rng.random(ROWS) < 0.7
    scores = np.asarray(users) @ np.asarray(living.item_vectors(now)).T
    scores[:, (now.ids < 0) | ~allowed] = -np.inf
    for row, ids in enumerate(exclude):
        scores[row, ids[ids >= 0]] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    best = np.take_along_axis(scores, order, axis=1)
    _, found_scores, rows = answers(now, users, exclude=exclude, allowed=allowed)
    np.testing.assert_array_equal(rows, np.where(best == -np.inf, -1, order))
    np.testing.assert_array_equal(found_scores, best)
    exact = brute_force(
        dot, None, items=living.item_vectors(now), users=users, k=K, exclude=exclude,
        allowed=live(now.index) & allowed,
    )  # fmt: skip
    np.testing.assert_array_equal(rows, exact.ids)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 999),
    st.sampled_from([0.9, 2.0]),
    st.lists(st.tuples(st.sampled_from("aaarrm"), st.integers(0, 8)), min_size=1, max_size=8),
)
def test_any_sequence_of_updates_leaves_a_consistent_index(seed, slack, operations):
    now, truth = started(seed, slack=max(slack, 1.0))
    rng = np.random.default_rng(seed)
    fresh = iter(range(1000, 2000))
    for step, (kind, size) in enumerate(operations):
        if kind == "a":
            size = min(size, ROWS - len(truth))
            new = {next(fresh): v for v in integers(seed + step, size, WIDTH)}
            truth |= new
            vectors = np.array(list(new.values()), np.float32).reshape(-1, WIDTH)
            now = living.add(now, vectors, ids=np.array(list(new), int))
        elif kind == "r":
            gone = rng.choice(sorted(truth), min(size, len(truth)), replace=False)
            now = living.remove(now, gone.astype(int))
            truth = {i: v for i, v in truth.items() if i not in gone}
        else:
            moved = rng.choice(sorted(truth), min(size, len(truth)), replace=False).astype(int)
            vectors = integers(seed - step - 1 + 5000, moved.size, WIDTH)
            truth |= dict(zip(moved.tolist(), vectors))
            now = living.reassign(now, vectors, ids=moved)
        check_consistent(now, truth)
    check_search(now, seed)


def test_add_then_remove_is_the_identity_on_answers():
    now, _ = started(3)
    users = jnp.asarray(integers(9, USERS, WIDTH))
    new = np.arange(500, 500 + RESERVE)
    more = living.add(now, 5 * np.ones((RESERVE, WIDTH), np.float32), ids=new)
    back = living.remove(more, new[::-1])
    assert np.isin(answers(more, users)[0], new).any()
    for a, b in zip(answers(now, users), answers(back, users)):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(now.index.lists >= 0, back.index.lists >= 0)


def test_a_full_node_sends_items_to_the_next_and_reassign_brings_them_home():
    nodes = np.array([[0.0], [1.0], [9.0]], np.float32)
    index = build_index(np.array([[0.0]], np.float32), nodes, capacity=2, reserve=5)
    now = living.start(index, np.zeros((1, 1)), ids=np.array([7, -1, -1, -1, -1, -1]))
    now = living.add(now, np.array([[0.1], [0.2], [0.3], [9.0]], np.float32), ids=np.arange(1, 5))
    np.testing.assert_array_equal(now.index.counts, [2, 2, 1])
    assert now.index.overflow == 2
    now = living.remove(now, np.array([7, 1]))
    np.testing.assert_array_equal(now.index.representatives, [-1, 3, 4])
    assert now.index.overflow == 2
    now = living.reassign(now)
    np.testing.assert_array_equal(now.index.counts, [2, 0, 1])
    assert now.index.overflow == 0


def test_an_emptied_index_answers_nothing_and_fills_again():
    now, truth = started(4)
    now = living.remove(now, np.array(list(truth)))
    users = jnp.asarray(integers(9, USERS, WIDTH))
    assert (answers(now, users)[0] == -1).all()
    assert not needs_rebuild(living.drift(now))
    now = living.add(now, integers(1, ROWS, WIDTH), ids=np.arange(ROWS))
    check_consistent(now, dict(enumerate(integers(1, ROWS, WIDTH))))


def test_updates_of_all_sizes_use_the_programs_compiled_once():
    now, _ = started(5)
    jitted = (edits.insert, edits.discard, edits.relist)

    def cycle(now, size):
        ids = np.arange(size)
        now = living.add(now, integers(size, size, WIDTH), ids=ids)
        now = living.reassign(now, integers(size + 1, size, WIDTH), ids=ids)
        return living.remove(now, ids)

    now = cycle(now, 3)
    before = [f._cache_size() for f in jitted]
    for size in (1, 7, RESERVE):
        now = cycle(now, size)
    assert [f._cache_size() for f in jitted] == before


def test_large_batches_are_cut(monkeypatch):
    monkeypatch.setattr(edits, "BATCHES", (2, 4))
    now, truth = started(6)
    vectors = integers(8, 11, WIDTH)
    whole = living.add(now, vectors, ids=np.arange(11))
    check_consistent(whole, truth | dict(enumerate(vectors)))
    check_consistent(living.remove(whole, np.array(list(truth))), dict(enumerate(vectors)))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999), st.integers(0, 20))
def test_assignment_on_the_device_follows_the_rule_of_the_host(seed, free):
    vectors, nodes = integers(seed, 20, 2), integers(seed + 1, 4, 2)
    waiting = np.random.default_rng(seed).permutation(20) >= free
    found, wanted = map(np.asarray, assign_rows(vectors, nodes, waiting=waiting, capacity=5))
    np.testing.assert_array_equal(wanted, distances_to(nodes, vectors).argmin(axis=1))
    assert (found[~waiting] == 4).all()
    if waiting.any():
        lists = assign(vectors[waiting], nodes, capacity=5)
        for node, listed in enumerate(lists):
            np.testing.assert_array_equal(
                np.flatnonzero(found == node), np.flatnonzero(waiting)[listed[listed >= 0]]
            )


def test_drift_asks_for_a_rebuild():
    items, _ = clusters(0, items=64, width=8, num_clusters=8, noise=0.3)
    retriever = Retriever(LTIConfig(num_nodes=8, kmeans_iterations=5), slack=1.5)
    retriever.build_index(items, reserve=64)
    assert not retriever.needs_rebuild()
    retriever.add(items, 100 + np.arange(64))  # more of the same
    assert not retriever.needs_rebuild()
    retriever.remove(100 + np.arange(64))
    elsewhere, _ = clusters(9, items=64, width=8, num_clusters=8, noise=0.3)
    retriever.add(elsewhere, 100 + np.arange(64))
    drift = retriever.drift()
    assert drift["mean_distance"] > 1.2 * drift["mean_distance_at_build"]
    assert retriever.needs_rebuild()
    assert not retriever.needs_rebuild(distance_ratio=99, more_overflow=1, imbalance_ratio=99)


@pytest.mark.parametrize(
    ("changed", "due"),
    [
        ({}, False),
        ({"overflow_share": 0.16}, True),
        ({"mean_distance": 1.25}, True),
        ({"imbalance": 3.1}, True),
    ],
)
def test_each_threshold_of_the_rebuild(changed, due):
    now = {"overflow_share": 0.05, "mean_distance": 1.0, "imbalance": 1.5}
    at_build = {f"{name}_at_build": value for name, value in now.items()}
    assert needs_rebuild(now | changed | at_build) == due


def retriever_of(reserve=4):
    items, _ = clusters(0, items=40, width=8, num_clusters=4, noise=0.5)
    retriever = Retriever(LTIConfig(num_nodes=4, kmeans_iterations=3))
    retriever.build_index(items, item_ids=7 * np.arange(40), reserve=reserve)
    return retriever, items


def test_retriever_adds_removes_saves_and_loads(tmp_path):
    retriever, items = retriever_of()
    before = retriever.search(items[:5], 3)
    retriever.add(2 * items[:2], [1001, 1002])
    assert retriever.search(items[:2], 1).ids[:, 0].tolist() == [1001, 1002]
    allowed = retriever.ids[retriever.ids != 7]
    hidden = retriever.search(items[:2], 1, exclude=[[1001], [1002]], allowed=allowed)
    assert not np.isin(hidden.ids, [1001, 1002, 7]).any()
    path = tmp_path / "retriever"
    retriever.save(path)
    loaded = Retriever.load(path)
    assert loaded.drift() == retriever.drift()
    for each in (retriever, loaded):
        each.remove([1002, 1001])
        after = each.search(items[:5], 3)
        np.testing.assert_array_equal(before.ids, after.ids)
        np.testing.assert_array_equal(before.scores, after.scores)
    assert loaded.stats()["items"] == 40


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (lambda r, v: r.add(v[:2], [900, 900]), "ids: expected distinct ids, found 900 twice"),
        (lambda r, v: r.add(v[:2], [900, 14]), "ids: expected new ones, found 14"),
        (lambda r, v: r.add(v[:1], [-3]), "ids: expected ids >= 0, found -3"),
        (lambda r, v: r.add(v[:1], [0.5]), "ids: expected integers, found dtype float64"),
        (lambda r, v: r.add(v[:2], [900]), r"ids: expected shape \[2\], found \[1\]"),
        (
            lambda r, v: r.add(v[:2, :5], [900, 901]),
            r"vectors: expected shape \[rows, 8\], found \[2, 5\]",
        ),
        (
            lambda r, v: r.add(np.nan * v[:1], [900]),
            "expected finite values, found NaN or inf in row 0",
        ),
        (lambda r, v: r.remove([0, 999]), "ids: expected ids that the index holds, found 999"),
        (lambda r, v: r.remove([0, 0]), "ids: expected distinct ids, found 0 twice"),
        (lambda r, v: r.reassign(v[:1]), "ids: expected them together with vectors, found none"),
        (
            lambda r, v: r.reassign(v[:1], [999]),
            "ids: expected ids that the index holds, found 999",
        ),
        (lambda r, v: r.reassign(np.inf * v[:1], [0]), "vectors: expected finite values"),
        (lambda r, v: r.build_index(v, reserve=-1), "reserve: expected a number >= 0"),
    ],
)
def test_bad_updates_change_nothing(update, message):
    retriever, items = retriever_of()
    before = retriever._now
    with pytest.raises(ValueError, match=message):
        update(retriever, items)
    assert retriever._now is before


def test_readers_see_whole_states():
    """While a writer swaps two items for each other, a search finds exactly one of them."""
    retriever, items = retriever_of()
    bright = 9 * items[:1]
    retriever.add(bright, [5001])
    seen, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            seen.append(retriever.search(items[:1], 1).ids[0, 0])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(10):
            for old, new in ((5001, 5002), (5002, 5001)):
                now = retriever._whole()
                items = living.add(living.remove(now.items, [old]), bright, ids=[new])
                retriever._now = nested.follow(now, items, models=retriever._models)
    finally:
        stop.set()
        reader.join()
    assert set(seen) <= {5001, 5002}
