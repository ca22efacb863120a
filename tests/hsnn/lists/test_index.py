import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsnn_jax.lists.assignment import assign
from hsnn_jax.lists.index import (
    build_index,
    in_whole_pages,
    live,
    pack,
    page_width,
    representative_features,
    stats,
)


def drawn(seed, items, nodes, width=5):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, width)).astype(np.float32) for rows in (items, nodes))


def greedy(vectors, nodes, capacity):
    """The rule of `assign`, one item and one round at a time, in float64."""
    distances = np.linalg.norm(vectors[:, None].astype(float) - nodes[None], axis=2)
    lists = [[] for _ in nodes]
    waiting = list(range(len(vectors)))
    while waiting:
        open_nodes = [k for k in range(len(nodes)) if len(lists[k]) < capacity]
        asks = {k: [] for k in open_nodes}
        for j in waiting:
            asks[min(open_nodes, key=lambda k, j=j: distances[j, k])].append(j)
        for k, askers in asks.items():
            room = capacity - len(lists[k])
            lists[k] += sorted(askers, key=lambda j, k=k: distances[j, k])[:room]
        waiting = [j for j in waiting if not any(j in ids for ids in lists)]
    return [sorted(ids) for ids in lists]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.integers(1, 60), st.integers(1, 9), st.integers(0, 10))
def test_lists_hold_every_item_once_by_the_rule(seed, items, num_nodes, spare):
    vectors, nodes = drawn(seed, items, num_nodes)
    capacity = -(-items // num_nodes) + spare
    lists = assign(vectors, nodes, capacity=capacity)
    assert lists.shape == (num_nodes, capacity)
    assert lists.dtype == np.int32
    assert sorted(lists[lists >= 0]) == list(range(items))
    found = [[i for i in row if i >= 0] for row in lists.tolist()]
    assert found == greedy(vectors, nodes, capacity)


def test_overflow_goes_to_the_next_nearest_node():
    nodes = np.array([[0.0], [1.0], [5.0]], np.float32)
    vectors = np.array([[0.0], [0.1], [0.2], [0.3]], np.float32)
    np.testing.assert_array_equal(assign(vectors, nodes, capacity=2), [[0, 1], [2, 3], [-1, -1]])
    index = build_index(vectors, nodes, capacity=2)
    assert stats(index)["overflow"] == 2
    assert stats(index)["used_nodes"] == 2


def test_assignment_is_the_same_twice():
    vectors, nodes = drawn(4, 300, 10)
    vectors[::3] = vectors[0]  # ties
    np.testing.assert_array_equal(
        assign(vectors, nodes, capacity=40), assign(vectors, nodes, capacity=40)
    )


def test_arrays_agree_with_each_other():
    vectors, nodes = drawn(5, 90, 8)
    index = build_index(vectors, nodes, slack=1.2)
    lists = np.asarray(index.lists)
    assert lists.shape[1] == 14  # ceil(1.2 * 90 / 8)
    np.testing.assert_array_equal(lists.ravel()[index.positions], np.arange(90))
    np.testing.assert_array_equal(index.counts, (lists >= 0).sum(axis=1))
    tiles = np.asarray(pack(index, jnp.asarray(vectors)).features)
    np.testing.assert_array_equal(tiles[lists >= 0], vectors[lists[lists >= 0]])
    for k, ids in enumerate(lists):
        ids = ids[ids >= 0]
        gaps = np.linalg.norm(vectors[ids] - nodes[k], axis=1)
        assert index.representatives[k] == ids[gaps.argmin()]
    chosen = representative_features(index, jnp.asarray(vectors))
    np.testing.assert_array_equal(chosen, vectors[index.representatives])


def test_an_empty_node_is_read_as_the_first_item():
    vectors, _ = drawn(8, 10, 1)
    index = build_index(vectors, np.concatenate([vectors[:2], vectors[:1] + 1e3]), capacity=9)
    assert index.representatives.tolist()[2] == -1
    found = representative_features(index, jnp.asarray(vectors))
    np.testing.assert_array_equal(found[2], vectors[0])


def test_stats_of_an_even_and_a_collapsed_index():
    vectors, _ = drawn(6, 40, 1)
    even = stats(build_index(vectors, vectors[:4], capacity=10))
    assert even["perplexity"] == pytest.approx(4.0)
    assert even["imbalance"] == 1.0
    far = np.concatenate([vectors[:1], np.full((3, 5), 1e3, np.float32)])
    collapsed = stats(build_index(vectors, far, capacity=40))
    assert collapsed["perplexity"] == pytest.approx(1.0)
    assert collapsed["imbalance"] == 4.0
    assert collapsed["fill"] == 0.25
    alone = stats(build_index(vectors[:1], vectors[:2], capacity=1))
    assert alone["perplexity"] == pytest.approx(1.0)


def test_bad_input():
    vectors, nodes = drawn(7, 10, 3)
    with pytest.raises(
        ValueError, match="capacity: expected at least 4 for 10 rows in 3 nodes, found 3"
    ):
        assign(vectors, nodes, capacity=3)
    with pytest.raises(ValueError, match=r"nodes: expected shape \[rows, 5\], found \[3, 4\]"):
        assign(vectors, nodes[:, :4], capacity=4)


def test_free_rows_are_in_no_list():
    vectors, nodes = drawn(8, 30, 4)
    index = build_index(vectors, nodes, slack=1.0, reserve=10)
    assert index.lists.shape == (4, 10)
    assert (index.positions[30:] == 40).all()
    np.testing.assert_array_equal(live(index), np.arange(40) < 30)
    with pytest.raises(
        ValueError, match="capacity: expected at least 10 for 40 rows in 4 nodes, found 9"
    ):
        build_index(vectors, nodes, capacity=9, reserve=10)


def test_given_groups_are_the_lists():
    vectors, nodes = drawn(9, 12, 3)
    groups = np.array([2, 0, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0])  # node 1 stays empty
    index = build_index(vectors, nodes, node_of=groups, slack=1.0)
    assert index.lists.shape == (3, 7)
    np.testing.assert_array_equal(index.positions // 7, groups)
    assert index.representatives[1] == -1
    for wrong, message in (
        (groups[:5], r"node_of: expected shape \[12\], found \[5\]"),
        (groups + 1, "node_of: expected nodes 0 to 2, found values from 1 to 3"),
    ):
        with pytest.raises(ValueError, match=message):
            build_index(vectors, nodes, node_of=wrong)
    with pytest.raises(
        ValueError, match="capacity: expected the size of the largest group, 7, found 6"
    ):
        build_index(vectors, nodes, node_of=groups, capacity=6)


@pytest.mark.parametrize(
    "capacity, page, whole",
    [
        (9, 16, 9),
        (127, 128, 127),
        (128, 128, 128),
        (150, 160, 160),
        (192, 96, 192),
        (400, 144, 432),
    ],
)
def test_lists_longer_than_a_page_have_whole_ones(capacity, page, whole):
    """Of about 128 slots, equal, and of whole vector registers."""
    assert page_width(capacity) == page
    assert in_whole_pages(capacity) == whole
