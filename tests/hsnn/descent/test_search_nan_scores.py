"""A score that is no number ranks last, however the items are searched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsnn_jax import LTIConfig, Retriever
from hsnn_jax.descent.descend import Level
from hsnn_jax.descent.search import brute_force, brute_force_levels, search, search_levels
from hsnn_jax.descent.sharded import shard_index, sharded_search
from hsnn_jax.lists.index import build_index, pack
from hsnn_jax.lists.levels import build_levels
from hsnn_jax.monn.scorers import dot
from hsnn_jax.top_k import top_k
from tests.hsnn.planted import integers

ITEMS, NODES, WIDTH, USERS, K = 64, 8, 4, 5, 6
ITEM_VECTORS, USER_VECTORS = integers(0, ITEMS, WIDTH), integers(1, USERS, WIDTH)
NODE_VECTORS = integers(2, NODES, WIDTH)


def partial_dot(params, users, items):
    """The inner product where the item's first value is >= 0, else NaN: of items and of nodes."""
    return jnp.where(items[..., 0] >= 0, dot(params, users, items), jnp.nan)


def expected(rows=None):
    scores = USER_VECTORS.astype(float) @ ITEM_VECTORS.T
    scores[:, ITEM_VECTORS[:, 0] < 0] = -np.inf
    if rows is not None:
        scores[:, np.setdiff1d(np.arange(ITEMS), rows)] = -np.inf
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    best = np.take_along_axis(scores, ids, axis=1)
    return np.where(best == -np.inf, -1, ids), best


def check(found, rows=None):
    ids, scores = expected(rows)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.scores, scores)


def index():
    return build_index(ITEM_VECTORS, NODE_VECTORS, slack=1.3)


def searched():
    return search(
        partial_dot, None, index=index(), items=ITEM_VECTORS, users=USER_VECTORS, k=K, budget=ITEMS
    )


def exact():
    return brute_force(partial_dot, None, items=ITEM_VECTORS, users=USER_VECTORS, k=K)


def sharded():
    mesh = jax.make_mesh((4,), ("lists",))
    held, tiles = shard_index(index(), pack(index(), ITEM_VECTORS), mesh=mesh, axis="lists")
    return sharded_search(
        partial_dot, None, index=held, tiles=tiles, users=USER_VECTORS, k=K, budget=ITEMS,
        mesh=mesh, axis="lists",
    )  # fmt: skip


def levels(by_row):
    coarse = NODE_VECTORS[:2] + 0.0
    indexes = build_levels(ITEM_VECTORS, (coarse, NODE_VECTORS), slack=1.5)
    finest = ITEM_VECTORS if by_row else pack(indexes[-1], ITEM_VECTORS)
    middle = NODE_VECTORS if by_row else pack(indexes[0], NODE_VECTORS)
    made = [Level(partial_dot, None, USER_VECTORS, x) for x in (coarse, middle, finest)]
    if by_row:
        return brute_force_levels(made, indexes, k=K)
    return search_levels(made, indexes, k=K, budgets=(NODES, ITEMS))


PATHS = {
    "search": searched,
    "exact": exact,
    "sharded": sharded,
    "levels": lambda: levels(False),
    "exact levels": lambda: levels(True),
}


@pytest.mark.parametrize("path", PATHS)
def test_what_has_no_score_is_no_answer(path):
    check(PATHS[path]())


def test_a_retriever_finds_what_has_a_score():
    retriever = Retriever(LTIConfig(num_nodes=NODES), scorer=partial_dot)
    retriever.nodes = jnp.asarray(NODE_VECTORS)
    retriever.build_index(ITEM_VECTORS)
    check(retriever.search(USER_VECTORS, K, budget=ITEMS))
    rows = np.arange(0, ITEMS, 9)
    check(retriever.search(USER_VECTORS, K, budget=9, allowed=rows), rows)
    assert retriever.frontier(USER_VECTORS, K, budgets=[ITEMS])[0].recall == 1.0


def test_nodes_without_a_score_are_visited_last():
    retriever = Retriever(LTIConfig(num_nodes=NODES), scorer=partial_dot)
    retriever.nodes = jnp.asarray(NODE_VECTORS)
    retriever.build_index(ITEM_VECTORS)
    counts = np.asarray(retriever.index.counts)
    scored = counts[NODE_VECTORS[:, 0] >= 0].sum()
    assert 0 < scored < ITEMS
    answer = retriever.search(USER_VECTORS, K, budget=scored)
    np.testing.assert_array_equal(answer.items_scored, scored)


def test_top_k_of_nothing_but_nan():
    ids = jnp.arange(5, dtype=jnp.int32)[None]
    for k in (2, 5, 7):
        found, scores = top_k(jnp.full((1, 5), jnp.nan), ids, k=k)
        assert (found == -1).all() and (scores == -jnp.inf).all()
