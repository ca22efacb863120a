"""Search through several levels: against brute force, masks, budgets, costs, one level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsnn_jax import chunks
from hsnn_jax.descent import descend
from hsnn_jax.descent.descend import Level
from hsnn_jax.descent.search import brute_force_levels, search, search_levels
from hsnn_jax.lists.index import pack
from hsnn_jax.lists.levels import build_levels, nodes_of_items, representative_items
from hsnn_jax.monn.ensemble import init_ensemble
from hsnn_jax.monn.scorers import dot
from tests.hsnn.planted import integers

ITEMS, RESERVE, FINE, COARSE, WIDTH, USERS, K = 50, 6, 12, 4, 3, 5, 8
ROWS = ITEMS + RESERVE


def scaled(params, users, items):
    """A scorer with parameters; integers keep it exact."""
    return params * dot(None, users, items)


def problem(seed):
    """Three levels whose users, parameters and features differ, so that no mix-up goes unseen."""
    vectors, fine = integers(seed, ITEMS, WIDTH), integers(seed + 1, FINE, WIDTH)
    indexes = build_levels(
        vectors, (integers(seed + 2, COARSE, WIDTH), fine), slack=1.2, reserve=RESERVE
    )
    features = integers(seed + 3, ROWS, WIDTH)
    rows = representative_items(indexes, vectors)
    of_nodes = [features[np.maximum(r, 0)] for r in rows]
    levels = [
        Level(scaled, jnp.asarray(float(n)), jnp.asarray(integers(seed + 4 + n, USERS, WIDTH)), f)
        for n, f in enumerate((*of_nodes, features), start=1)
    ]
    return indexes, [x._replace(features=jnp.asarray(x.features)) for x in levels]


def ensemble_of(seed):
    """Integer weights, negative ones and zeros too: their sums are exact."""
    rng = np.random.default_rng(seed)
    weights = jnp.asarray(rng.integers(-1, 3, (3, 3)), jnp.float32)
    return {"weights": weights, "bias": jnp.asarray(rng.integers(-2, 3, 3), jnp.float32)}


def parents_of(lists, listed):
    """The list that holds each entry, by search; -1 for none."""
    found = np.full(listed, -1)
    for node, row in enumerate(np.asarray(lists)):
        found[row[row >= 0]] = node
    return found


def scores_by_hand(indexes, levels, ensemble):
    """The last level's logit of all pairs, float64 [B, n]; -inf in free rows."""
    fine = parents_of(indexes[1].lists, ROWS)
    ancestors = [parents_of(indexes[0].lists, FINE)[fine], fine, np.arange(ROWS)]
    weights, total = np.asarray(ensemble["weights"], float)[2], float(ensemble["bias"][2])
    for weight, level, rows in zip(weights, levels, ancestors):
        users, features = np.asarray(level.users, float), np.asarray(level.features, float)
        total = total + weight * float(level.params) * users @ features[rows].T
    return np.where(fine < 0, -np.inf, total)


def best_of(scores, exclude=None, allowed=None):
    scores = scores.copy()
    if allowed is not None:
        scores[:, ~np.asarray(allowed)] = -np.inf
    for row, ids in enumerate([] if exclude is None else np.asarray(exclude)):
        scores[row, ids[ids >= 0]] = -np.inf
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    best = np.take_along_axis(scores, ids, axis=1)
    return np.where(best == -np.inf, -1, ids), best


def masks(seed):
    rng = np.random.default_rng(seed)
    exclude = jnp.asarray(rng.integers(-1, ROWS, (USERS, 12)), jnp.int32)
    return {"exclude": exclude, "allowed": jnp.asarray(rng.random(ROWS) < rng.choice([0.1, 0.7]))}


def capacities(indexes):
    return [index.lists.shape[1] for index in indexes]


def packed(indexes, levels):
    tiles = [pack(index, level.features) for index, level in zip(indexes, levels[1:])]
    return [levels[0], *(level._replace(features=t) for level, t in zip(levels[1:], tiles))]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_full_budgets_equal_brute_force_by_the_last_ensemble(seed, in_tiles):
    indexes, levels = problem(seed)
    ensemble, options = ensemble_of(seed), masks(seed)
    expected = best_of(scores_by_hand(indexes, levels, ensemble), **options)
    whole = brute_force_levels(levels, indexes, k=K, ensemble=ensemble, **options)
    budgets = [max(FINE, indexes[0].lists.shape[1]), ROWS]
    held = packed(indexes, levels) if in_tiles else levels
    beam = search_levels(held, indexes, k=K, budgets=budgets, ensemble=ensemble, **options)
    for found in (whole, beam):
        np.testing.assert_array_equal(found.ids, expected[0])
        np.testing.assert_array_equal(found.scores, expected[1])


def left_by_hand(indexes, allowed, excluded):
    """Whether each fine and each coarse node holds an item that this user may get."""
    wanted = np.asarray(allowed).copy()
    wanted[excluded[excluded >= 0]] = False
    fine = np.array([wanted[row[row >= 0]].any() for row in np.asarray(indexes[1].lists)])
    coarse = np.array([fine[row[row >= 0]].any() for row in np.asarray(indexes[0].lists)])
    return coarse, fine


def taken(scores, candidates, left, counts, budget):
    """The rule of a level for one user: the nodes that are expanded, in order."""
    nodes, spent = [], 0
    for node in sorted(candidates, key=lambda node: -scores[node]):
        if left[node]:
            spent += int(counts[node])
            if spent > budget:
                break
            nodes.append(node)
    return nodes


def children(lists, nodes):
    return [int(i) for node in nodes for i in np.asarray(lists)[node] if i >= 0]


def untied(seed):
    """A problem without ties, where the rule of a level names the nodes."""
    indexes, levels = problem(seed)
    rng = np.random.default_rng(seed)
    levels = [
        level._replace(users=jnp.asarray(rng.normal(size=(USERS, WIDTH)), jnp.float32))
        for level in levels
    ]
    features = [jnp.asarray(rng.normal(size=level.features.shape), jnp.float32) for level in levels]
    return indexes, [level._replace(features=f) for level, f in zip(levels, features)]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, FINE), st.integers(0, ITEMS))
def test_small_budgets_follow_the_rule_and_never_return_a_masked_item(seed, more_nodes, more_items):
    indexes, levels = untied(seed)
    options, ensemble = masks(seed), init_ensemble(3)
    budgets = [c + more for c, more in zip(capacities(indexes), (more_nodes, more_items))]
    found = search_levels(levels, indexes, k=K, budgets=budgets, ensemble=ensemble, **options)
    found, indexes, options = jax.device_get((found, indexes, options))
    outputs = [
        float(x.params) * np.asarray(x.users, float) @ np.asarray(x.features, float).T
        for x in levels
    ]
    parent = parents_of(indexes[0].lists, FINE)
    of_fine = (outputs[0][:, parent] + outputs[1]) / 2
    final = scores_by_hand(indexes, levels, ensemble)
    for user in range(USERS):
        excluded = options["exclude"][user]
        coarse_left, fine_left = left_by_hand(indexes, options["allowed"], excluded)
        counts = [index.counts for index in indexes]
        nodes = taken(outputs[0][user], range(COARSE), coarse_left, counts[0], budgets[0])
        listed = children(indexes[0].lists, nodes)
        assert found.nodes_scored[user] == COARSE + len(listed)
        nodes = taken(of_fine[user], listed, fine_left, counts[1], budgets[1])
        items = children(indexes[1].lists, nodes)
        assert found.items_scored[user] == len(items)
        banned = set(excluded.tolist())
        items = [i for i in items if options["allowed"][i] and i not in banned]
        items = sorted(items, key=lambda i, user=user: -final[user, i])[:K]
        assert found.ids[user].tolist() == items + [-1] * (K - len(items))
        # Absolute too: outputs of size 1 may cancel to a score of 1e-4, rounded at 1e-7.
        expected = final[user, items]
        np.testing.assert_allclose(found.scores[user, : len(items)], expected, rtol=1e-4, atol=1e-6)


def test_two_levels_without_a_coarse_weight_are_the_search_of_one_level():
    indexes, levels = problem(0)
    fine, nodes, items = indexes[1], levels[1], levels[2]._replace(users=levels[1].users)
    ensemble = {"weights": jnp.asarray([[1.0, 0.0], [0.0, 1.0]]), "bias": jnp.zeros(2)}
    for budget in (fine.lists.shape[1], 25, ROWS):
        one = search(
            scaled,
            items.params,
            index=fine,
            items=items.features,
            users=items.users,
            k=K,
            budget=budget,
            node_params=nodes.params,
            node_features=nodes.features,
            **masks(0),
        )
        options = dict(budgets=[budget], **masks(0))
        for joined in (ensemble, None):
            two = search_levels([nodes, items], [fine], k=K, ensemble=joined, **options)
            for field in one._fields:
                np.testing.assert_array_equal(getattr(two, field), getattr(one, field))


def test_values_change_without_a_new_trace():
    traces = []

    def counted(params, users, items):
        traces.append(items.shape)
        return scaled(params, users, items)

    indexes, levels = problem(1)
    levels = [level._replace(scorer=counted) for level in levels]
    small = capacities(indexes)
    per_user = [np.full(USERS, c) for c in small]
    found, traced = [], []
    for seed, budgets in enumerate((small, [FINE, ROWS], per_user, [small[0], ROWS])):
        found.append(
            search_levels(
                levels, indexes, k=K, budgets=budgets, ensemble=ensemble_of(seed), **masks(seed)
            )
        )
        traced.append(len(traces))
    assert traced[0] > 0
    assert traced == traced[:1] * 4
    assert (np.asarray(found[1].nodes_scored) >= np.asarray(found[0].nodes_scored)).all()
    assert not np.array_equal(found[1].nodes_scored, found[0].nodes_scored)


def test_costs_count_every_level():
    indexes, levels = problem(2)
    found = search_levels(levels, indexes, k=K, budgets=[FINE, ROWS], ensemble=init_ensemble(3))
    # One multiplication by the parameter, and an inner product; every list is read in its pages.
    read = []
    for index in indexes:
        page = min(8, index.lists.shape[1])
        read.append(page * int(np.ceil(np.asarray(index.counts) / page).sum()))
    np.testing.assert_array_equal(found.flops, (2 * WIDTH + 1) * (COARSE + sum(read)))
    whole = brute_force_levels(levels, indexes, k=K, ensemble=init_ensemble(3))
    np.testing.assert_array_equal(whole.flops, (2 * WIDTH + 1) * (COARSE + FINE + ROWS))
    assert (np.asarray(whole.nodes_scored) == COARSE + FINE).all()
    assert (np.asarray(whole.items_scored) == ROWS).all()


def shifted(params, users, items):
    """Another scorer, of another order."""
    return params - dot(None, users, items)


def test_without_an_ensemble_brute_force_is_the_last_levels_scorer():
    indexes, levels = problem(5)
    levels[1] = levels[1]._replace(scorer=shifted)
    found = brute_force_levels(levels, indexes, k=K)
    weights = jnp.zeros((3, 3)).at[2, 2].set(1.0)
    alone = {"weights": weights, "bias": jnp.zeros(3)}
    ids, scores = best_of(scores_by_hand(indexes, levels, alone))
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.flops, (2 * WIDTH + 1) * ROWS)


def test_a_filter_that_allows_nothing_scores_no_node_below_the_first_level():
    indexes, levels = problem(3)
    found = search_levels(levels, indexes, k=K, budgets=[FINE, ROWS], allowed=jnp.zeros(ROWS, bool))
    assert (np.asarray(found.ids) == -1).all()
    assert (np.asarray(found.items_scored) == 0).all()
    assert (np.asarray(found.nodes_scored) == COARSE).all()


def test_chunks_of_users_change_nothing(monkeypatch):
    indexes, levels = problem(4)
    options = dict(budgets=[8, 30], ensemble=ensemble_of(4), **masks(4))
    whole = search_levels(levels, indexes, k=K, **options)
    monkeypatch.setattr(chunks, "_MAX_VALUES", 1)
    monkeypatch.setattr(chunks, "_MIN_ROWS", 2)
    jax.clear_caches()
    for field, expected in zip(search_levels(levels, indexes, k=K, **options), whole):
        np.testing.assert_array_equal(field, expected)


def test_ranked_in_blocks_the_answer_is_the_same(monkeypatch):
    indexes, levels = problem(5)
    options = dict(budgets=[FINE, ROWS], ensemble=ensemble_of(5), **masks(5))
    whole = search_levels(levels, indexes, k=K, **options)
    monkeypatch.setattr(descend, "_RANKED", 1)
    for field, expected in zip(search_levels(levels, indexes, k=K, **options), whole):
        np.testing.assert_array_equal(field, expected)
    assert (np.asarray(whole.ids) >= 0).any()


def test_a_nodes_representative_is_the_nearest_item_below_it():
    vectors, fine, coarse = (integers(s, n, WIDTH) for s, n in ((5, 40), (6, 9), (7, 3)))
    indexes = build_levels(vectors, (coarse, fine), reserve=4)
    of_items, found = nodes_of_items(indexes), representative_items(indexes, vectors)
    for index, nodes, rows in zip(indexes, of_items, found):
        assert (np.asarray(nodes)[40:] == index.nodes.shape[0]).all()
        for node, row in enumerate(np.asarray(rows)):
            below = np.flatnonzero(np.asarray(nodes)[:40] == node)
            gaps = np.linalg.norm(vectors[below] - np.asarray(index.nodes)[node], axis=1)
            assert row == (below[gaps.argmin()] if below.size else -1)
    np.testing.assert_array_equal(of_items[1][:40], parents_of(indexes[1].lists, 44)[:40])
    parents = parents_of(indexes[0].lists, 9)
    np.testing.assert_array_equal(of_items[0][:40], parents[np.asarray(of_items[1])[:40]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(levels=2), "levels: expected one per index and .*, found 2 for 2 indexes"),
        (dict(budgets=[FINE]), "budgets: expected 2 entries, one per index, found 1"),
        (dict(budgets=[FINE, 0]), "budget: expected numbers >= 1, found 0"),
        (dict(max_beams=[1]), "max_beams: expected 2 entries, one per index, found 1"),
        (dict(ensemble=init_ensemble(2)), "ensemble: expected 3 levels, found 2"),
        (dict(k=ROWS + 1), f"k: expected 1 to {ROWS}, the rows of items, found {ROWS + 1}"),
    ],
)
def test_bad_input(change, message):
    indexes, levels = problem(0)
    options = dict(budgets=[FINE, ROWS]) | change
    levels = levels[: options.pop("levels", 3)]
    with pytest.raises(ValueError, match=message):
        search_levels(levels, indexes, k=options.pop("k", K), **options)


def test_levels_that_do_not_fit():
    indexes, levels = problem(0)
    options = dict(budgets=[FINE, ROWS])
    with pytest.raises(ValueError, match=r"indexes\[0\]: expected to list the next one's 4 nodes"):
        search_levels(levels, indexes[::-1], k=K, **options)
    short = levels[1]._replace(features=levels[1].features[:5])
    with pytest.raises(ValueError, match=r"levels\[1\]: expected 12 features, found 5"):
        search_levels([levels[0], short, levels[2]], indexes, k=K, **options)
    few = levels[2]._replace(users=levels[2].users[:2])
    with pytest.raises(
        ValueError, match=r"levels\[2\]: expected 5 users as in levels\[0\], found 2"
    ):
        search_levels([*levels[:2], few], indexes, k=K, **options)


@pytest.mark.parametrize("part", ["features", "users"])
@pytest.mark.parametrize("number", [0, 2])
def test_numbers_that_a_cast_would_falsify_are_refused(part, number):
    indexes, levels = problem(0)
    wide = np.asarray(getattr(levels[number], part), np.float64) * 1e60
    levels[number] = levels[number]._replace(**{part: wide})
    with pytest.raises(ValueError, match=rf"^levels\[{number}\]\.{part}: expected"):
        search_levels(levels, indexes, k=K, budgets=[FINE, ROWS])
