"""Width-major tiles: users who read the same page are scored together, and none is dropped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsnn_jax.descent import beam, descend
from hsnn_jax.descent.grouped import score_grouped
from hsnn_jax.descent.search import brute_force, search
from hsnn_jax.lists.index import build_index, pack, page_width
from hsnn_jax.lists.wide import pack_wide, vectors_at, vectors_of_list, widened
from hsnn_jax.monn.scorers import dot, init_mol, mol
from tests.hsnn.planted import clusters, integers, users_near

ITEMS, WIDTH = 700, 4


def problem(seed, *, users, nodes=40, capacity=None):
    """Vectors whose scores are exact and full of ties, in lists of several pages."""
    items = integers(seed, ITEMS, WIDTH)
    capacity = capacity or -(-2 * ITEMS // nodes)
    index = build_index(items, integers(seed + 2, nodes, WIDTH), capacity=capacity)
    return index, jnp.asarray(items), jnp.asarray(integers(seed + 1, users, WIDTH))


def same(found, expected):
    for name in ("ids", "scores", "items_scored", "unseen"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


BUDGETS = st.sampled_from([1, 30, 150, 400, ITEMS])


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([3, 17]), BUDGETS, st.booleans())
def test_answers_are_those_of_row_major_tiles(seed, users, budget, masked):
    check_against_rows(seed, users, budget, masked)


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1, 9, 40]), BUDGETS, st.booleans())
def test_answers_of_more_sizes_are_those_of_row_major_tiles(seed, users, budget, masked):
    check_against_rows(seed, users, budget, masked)


def check_against_rows(seed, users, budget, masked):
    index, items, queries = problem(seed, users=users, nodes=4, capacity=300)
    rng, masks = np.random.default_rng(seed), {}
    if masked:
        masks["exclude"] = jnp.asarray(rng.integers(-1, ITEMS, (users, 12)), jnp.int32)
        masks["allowed"] = jnp.asarray(rng.random(ITEMS) < rng.choice([0.05, 0.5, 0.95]))
    given = dict(index=index, users=queries, k=30, budget=budget, **masks)
    narrow = search(dot, None, items=pack(index, items), **given)
    same(search(dot, None, items=pack_wide(index, items), **given), narrow)
    if budget == ITEMS:
        whole = brute_force(dot, None, items=items, users=queries, k=30, **masks)
        np.testing.assert_array_equal(narrow.ids, whole.ids)


@pytest.mark.parametrize(
    "ranked", [*(pytest.param(n, marks=pytest.mark.long) for n in (1, 100)), 6144]
)
def test_short_beams_and_blocks_change_nothing(ranked, monkeypatch):
    index, items, queries = problem(3, users=20, nodes=80)
    given = dict(index=index, users=queries, k=30)
    budgets = np.linspace(1, ITEMS, 20).astype(int)  # some afford more than a short beam holds
    expected = [
        search(dot, None, items=pack(index, items), budget=b, **given) for b in (90, budgets)
    ]
    monkeypatch.setattr(descend, "_RANKED", ranked)
    monkeypatch.setattr(beam, "_FEW", 8)
    jax.clear_caches()
    for budget, narrow in zip((90, budgets), expected):
        same(search(dot, None, items=pack_wide(index, items), budget=budget, **given), narrow)


def test_equal_users_are_all_scored_and_get_one_answer():
    index, items, queries = problem(5, users=1)
    many = jnp.repeat(queries, 100, axis=0)
    given = dict(index=index, items=pack_wide(index, items), k=30, budget=200)
    one = search(dot, None, users=queries, **given)
    all_of = search(dot, None, users=many, **given)
    np.testing.assert_array_equal(all_of.ids, np.repeat(one.ids, 100, axis=0))
    np.testing.assert_array_equal(all_of.scores, np.repeat(one.scores, 100, axis=0))


@pytest.mark.parametrize("users", [1, 2, 17])
def test_a_page_that_several_read_is_scored_for_each(users):
    index, items, queries = problem(7, users=users, nodes=4, capacity=300)
    tiles = pack_wide(index, items)
    size = tiles.features.shape[3]
    assert tiles.features.shape[1] > 1
    rng = np.random.default_rng(0)
    node = rng.integers(0, 4, (users, 6)).astype(np.int32)
    number = rng.integers(0, tiles.features.shape[1], (users, 6)).astype(np.int32)
    length = rng.integers(0, 7, users).astype(np.int32).clip(1)
    found = score_grouped(
        dot, None, index=index, tiles=tiles, users=queries, node=node, number=number, length=length
    )
    lists = np.pad(np.asarray(index.lists), ((0, 0), (0, size)), constant_values=-1)
    for row in range(users):
        for page in range(6):
            first = number[row, page] * size
            ids = lists[node[row, page], first : first + size]
            scores = np.asarray(items)[np.maximum(ids, 0)] @ np.asarray(queries)[row]
            wanted = np.where((ids >= 0) & (page < length[row]), scores, -np.inf)
            np.testing.assert_array_equal(found[row, page * size : (page + 1) * size], wanted)


def test_any_scorer_of_vectors_reads_them():
    items, _ = clusters(0, items=300, width=16, num_clusters=9, noise=0.8)
    users, _ = users_near(1, items, users=20, noise=0.8)
    params = init_mol(jax.random.key(0), 16, item_width=16)
    index = build_index(items, items[:10])
    given = dict(index=index, users=jnp.asarray(users), k=20, budget=100)
    narrow = search(mol, params, items=pack(index, jnp.asarray(items)), **given)
    wide = search(mol, params, items=pack_wide(index, jnp.asarray(items)), **given)
    np.testing.assert_array_equal(wide.ids, narrow.ids)
    np.testing.assert_allclose(wide.scores, narrow.scores, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("capacity", [9, 16, 150, 357])
def test_slots_of_width_major_tiles_are_those_of_the_lists(capacity):
    nodes = -(-ITEMS // capacity) + 2
    index, items, _ = problem(11, users=1, nodes=nodes, capacity=capacity)
    tiles, rows = pack_wide(index, items), np.asarray(pack(index, items).features)
    assert tiles.features.shape[3] == page_width(capacity)
    node, column = np.nonzero(np.asarray(index.lists) >= 0)
    np.testing.assert_array_equal(vectors_at(tiles, node=node, column=column), rows[node, column])
    for held, slots in ((tiles, capacity), (widened(tiles, capacity, factor=2), 2 * capacity)):
        lists = jax.vmap(lambda of, slots=slots: vectors_of_list(of, slots))(held)
        np.testing.assert_array_equal(np.asarray(lists)[node, column], rows[node, column])
