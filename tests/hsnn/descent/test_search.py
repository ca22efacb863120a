import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsnn_jax import LTIConfig, chunks
from hsnn_jax.cost_curves import frontier
from hsnn_jax.descent import descend
from hsnn_jax.descent.descend import nothing_found
from hsnn_jax.descent.search import brute_force, compiled_search, prepare, search
from hsnn_jax.lists.index import build_index, pack
from hsnn_jax.monn.scorers import dot, init_mol, mol, pair_flops
from hsnn_jax.nodes.fit import fit_index
from tests.hsnn.planted import clusters, integers, unit, users_near

ITEMS, NODES, WIDTH, USERS = 90, 6, 4, 9


def integer_problem(seed):
    """Vectors whose scores are exact and full of ties."""
    items, users = integers(seed, ITEMS, WIDTH), integers(seed + 1, USERS, WIDTH)
    index = build_index(items, integers(seed + 2, NODES, WIDTH), slack=1.3)
    return index, jnp.asarray(items), jnp.asarray(users)


def drawn_masks(seed):
    rng = np.random.default_rng(seed)
    # Repeated ids and padding on purpose.
    exclude = jnp.asarray(rng.integers(-1, ITEMS, (USERS, 12)), jnp.int32)
    return exclude, jnp.asarray(rng.random(ITEMS) < rng.choice([0.05, 0.5, 0.95]))


def exact(items, users, k, exclude=None, allowed=None):
    """Brute force in float64 numpy: the higher score, then the lower id."""
    scores = np.asarray(users, float) @ np.asarray(items, float).T
    if allowed is not None:
        scores[:, ~np.asarray(allowed)] = -np.inf
    for row, ids in enumerate([] if exclude is None else np.asarray(exclude)):
        scores[row, ids[ids >= 0]] = -np.inf
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, ids, axis=1)
    return np.where(best == -np.inf, -1, ids), best


def same(found, expected):
    np.testing.assert_array_equal(found.ids, expected[0])
    np.testing.assert_array_equal(found.scores, expected[1])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.booleans(), st.booleans())
def test_full_beam_equals_brute_force_bit_for_bit(seed, with_exclude, with_allowed, packed):
    index, items, users = integer_problem(seed)
    exclude, allowed = drawn_masks(seed)
    masks = {"exclude": exclude} if with_exclude else {}
    masks |= {"allowed": allowed} if with_allowed else {}
    whole = brute_force(dot, None, items=items, users=users, k=10, **masks)
    features = pack(index, items) if packed else items
    beam = search(dot, None, index=index, items=features, users=users, k=10, budget=ITEMS, **masks)
    same(whole, exact(items, users, 10, **masks))
    same(beam, (whole.ids, whole.scores))


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 70), st.integers(1, 12), st.integers(1, 9), st.data())
@pytest.mark.long
def test_full_beam_equals_brute_force_at_any_size(num_items, num_nodes, num_users, data):
    k = data.draw(st.integers(1, num_items))
    items, users = integers(num_items, num_items, 3), integers(num_users, num_users, 3)
    index = build_index(items, integers(num_nodes, num_nodes, 3), slack=1.0)
    budget = max(num_items, index.lists.shape[1])
    found = search(
        dot,
        None,
        index=index,
        items=jnp.asarray(items),
        users=jnp.asarray(users),
        k=k,
        budget=budget,
    )
    same(found, exact(items, users, k))


@pytest.mark.parametrize("scorer", [dot, mol])
def test_full_beam_equals_brute_force_on_real_vectors(scorer):
    items, _ = clusters(0, items=300, width=16, num_clusters=9, noise=0.8)
    users, _ = users_near(1, items, users=20, noise=0.8)
    params = init_mol(jax.random.key(0), 16, item_width=16) if scorer is mol else None
    index = build_index(items, items[:10])
    given = dict(items=jnp.asarray(items), users=jnp.asarray(users), k=20)
    whole = brute_force(scorer, params, **given)
    found = search(scorer, params, index=index, **given, budget=300)
    # Products of different shapes round differently; the ids agree as no scores are that close.
    np.testing.assert_array_equal(found.ids, whole.ids)
    np.testing.assert_allclose(found.scores, whole.scores, rtol=2e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, ITEMS))
def test_masked_items_never_return_and_the_rest_is_scored_right(seed, extra):
    index, items, users = integer_problem(seed)
    exclude, allowed = drawn_masks(seed)
    budget = min(index.lists.shape[1] + extra, ITEMS)
    found = search(
        dot,
        None,
        index=index,
        items=items,
        users=users,
        k=10,
        budget=budget,
        exclude=exclude,
        allowed=allowed,
    )
    scores = np.asarray(users @ items.T)
    for row in range(USERS):
        ids = np.asarray(found.ids[row])
        ids, rest = ids[ids >= 0], ids[ids < 0]
        assert len(set(ids)) == len(ids)
        assert not set(ids) & set(np.asarray(exclude[row]).tolist())
        assert np.asarray(allowed)[ids].all()
        np.testing.assert_array_equal(found.scores[row, : len(ids)], scores[row, ids])
        assert (np.asarray(found.scores[row, len(ids) :]) == -np.inf).all()
        assert (rest == -1).all()


def visited_by_rule(index, node_scores, budget, left):
    """The beam rule for one user, in plain Python.

    Return the number of items it scores, and how many the user may get of those it does not.
    """
    spent, seen = 0, 0
    for node in np.argsort(-node_scores, kind="stable"):
        if left[node] == 0:
            continue
        if spent and spent + index.counts[node] > budget:
            break
        spent, seen = spent + int(index.counts[node]), seen + left[node]
    return spent, left.sum() - seen


@pytest.mark.parametrize("masked", [False, True])
def test_items_scored_follow_the_rule_and_grow_with_the_budget(masked):
    index, items, users = integer_problem(3)
    exclude, allowed = np.full((USERS, 40), -1), np.ones(ITEMS, bool)
    if masked:
        # Nodes 0 and 1: no allowed item left, in all and for user 4 alone.
        allowed[np.asarray(index.lists[0, : index.counts[0]])] = False
        gone = np.asarray(index.lists[1, : index.counts[1]])
        exclude[4, : 2 * gone.size] = np.tile(gone, 2)
        exclude[5, : 2 * gone.size - 2] = np.tile(gone[:-1], 2)
    scores, before = np.asarray(users @ index.nodes.T), np.zeros(USERS, int)
    node_of = np.asarray(index.positions) // index.lists.shape[1]
    for budget in range(1, ITEMS + 1, 7):
        found = search(
            dot,
            None,
            index=index,
            items=items,
            users=users,
            k=5,
            budget=budget,
            exclude=jnp.asarray(exclude),
            allowed=jnp.asarray(allowed),
        )
        for row in range(USERS):
            open_items = np.setdiff1d(np.flatnonzero(allowed), exclude[row])
            left = np.bincount(node_of[open_items], minlength=NODES)
            costs = int(found.items_scored[row]), int(found.unseen[row])
            assert costs == visited_by_rule(index, scores[row], budget, left)
        assert (np.asarray(found.items_scored) >= before).all()
        assert (np.asarray(found.items_scored) <= max(budget, index.lists.shape[1])).all()
        before = np.asarray(found.items_scored)


def test_a_filter_that_allows_nothing_gives_an_empty_answer():
    index, items, users = integer_problem(0)
    nothing = jnp.zeros(ITEMS, bool)
    whole = brute_force(dot, None, items=items, users=users, k=3, allowed=nothing)
    beam = search(
        dot, None, index=index, items=items, users=users, k=3, budget=ITEMS, allowed=nothing
    )
    assert (np.asarray(whole.ids) == -1).all()
    assert (np.asarray(beam.ids) == -1).all()
    assert (np.asarray(beam.items_scored) == 0).all()


def test_each_user_may_have_a_budget():
    index, items, users = integer_problem(1)
    budgets = np.linspace(index.lists.shape[1], ITEMS, USERS).astype(int)
    together = search(dot, None, index=index, items=items, users=users, k=5, budget=budgets)
    for row, budget in enumerate(budgets):
        alone = search(dot, None, index=index, items=items, users=users, k=5, budget=budget)
        np.testing.assert_array_equal(together.ids[row], alone.ids[row])
        assert together.items_scored[row] == alone.items_scored[row]


def test_max_beam_bounds_the_nodes():
    index, items, users = integer_problem(2)
    wide = search(dot, None, index=index, items=items, users=users, k=5, budget=ITEMS, max_beam=2)
    best = np.sort(np.argsort(-np.asarray(users @ index.nodes.T), axis=1, kind="stable")[:, :2])
    np.testing.assert_array_equal(wide.items_scored, np.asarray(index.counts)[best].sum(axis=1))


def test_values_change_without_a_new_trace():
    traces = []

    def counted(params, users, items):
        traces.append(items.shape)
        return dot(params, users, items)

    index, items, users = integer_problem(5)
    exclude, allowed = drawn_masks(5)

    def run(budget, exclude, allowed):
        return search(
            counted,
            None,
            index=index,
            items=items,
            users=users,
            k=5,
            budget=budget,
            exclude=exclude,
            allowed=allowed,
        )

    first, traced = run(40, exclude, allowed), len(traces)
    second = run(90, exclude + 1, ~allowed)
    assert traced > 0
    assert len(traces) == traced
    assert not np.array_equal(first.items_scored, second.items_scored)


def test_chunks_of_users_change_nothing(monkeypatch):
    index, items, users = integer_problem(6)
    exclude, allowed = drawn_masks(6)
    run = functools.partial(
        search,
        dot,
        None,
        index=index,
        items=items,
        users=users,
        budget=50,
        exclude=exclude,
        allowed=allowed,
    )
    whole = run(k=7)
    monkeypatch.setattr(chunks, "_MAX_VALUES", 1)
    monkeypatch.setattr(chunks, "_MIN_ROWS", 4)
    jax.clear_caches()
    for field, expected in zip(run(k=7), whole):
        np.testing.assert_array_equal(field, expected)


@pytest.mark.parametrize("ranked", [1, 80])
def test_ranked_in_blocks_the_answer_is_the_same(ranked, monkeypatch):
    index, items, users = integer_problem(11)
    exclude, allowed = drawn_masks(11)
    run = functools.partial(search, dot, None, index=index, items=items, users=users, k=10)
    budgets = np.linspace(index.lists.shape[1], ITEMS, USERS).astype(int)
    options = [
        dict(budget=budget, **masks)
        for budget in (index.lists.shape[1], ITEMS, budgets)
        for masks in ({}, dict(exclude=exclude, allowed=allowed))
    ]
    whole = [run(**o) for o in options]
    monkeypatch.setattr(descend, "_RANKED", ranked)  # blocks of one round, and of two
    for expected, o in zip(whole, options):
        for field, values in zip(run(**o), expected):
            np.testing.assert_array_equal(field, values)
    assert (np.asarray(whole[1].ids) == -1).any()


def test_a_large_bound_holds_no_scores_of_all_items():
    items, users = jnp.ones((200_000, 2)), jnp.ones((32, 2))
    index = build_index(items, jnp.ones((400, 2)), node_of=np.arange(200_000) % 400)
    request, static = prepare(dot, None, index=index, users=users, k=5, budget=1000)
    program = compiled_search.lower((index,), items, request=request, static=static).compile()
    assert static.max_beams == (400,)
    assert program.memory_analysis().temp_size_in_bytes < 4 * items.shape[0] * len(users)


def test_features_may_be_a_pytree():
    index, items, users = integer_problem(7)

    def biased(params, users, items):
        return params * dot(None, users["vector"], items["vector"]) + items["bias"]

    features = {"vector": items, "bias": jnp.asarray(integers(9, ITEMS))}
    people = {"vector": users}
    options = dict(node_scorer=lambda p, u, c: dot(p, u["vector"], c), budget=ITEMS)
    whole = brute_force(biased, 2.0, items=features, users=people, k=8)
    for held in (features, pack(index, features)):
        found = search(biased, 2.0, index=index, items=held, users=people, k=8, **options)
        same(found, (whole.ids, whole.scores))


def test_flops_count_nodes_and_the_pages_read():
    index, items, users = integer_problem(8)
    found = search(dot, None, index=index, items=items, users=users, k=5, budget=ITEMS, max_beam=3)
    best = np.argsort(-np.asarray(users @ index.nodes.T), axis=1, kind="stable")[:, :3]
    slots = 8 * np.ceil(np.asarray(index.counts)[best] / 8).sum(axis=1)
    np.testing.assert_array_equal(found.flops, 2 * WIDTH * (NODES + slots))
    assert (slots < 3 * index.lists.shape[1]).any()
    assert (
        float(brute_force(dot, None, items=items, users=users, k=5).flops[0]) == 2 * WIDTH * ITEMS
    )
    per_user, per_item = pair_flops(
        mol, init_mol(jax.random.key(0), 4, item_width=4), users=users, items=items
    )
    assert per_user > 0
    assert per_item > 100 * 2 * WIDTH


def test_learned_nodes_beat_random_ones_at_equal_items_scored():
    items, _ = clusters(0, items=600, width=16, num_clusters=20, noise=0.5)
    users, liked = users_near(1, items, users=1000, noise=0.5)
    config = LTIConfig(num_nodes=20, total_steps=100, warmup_steps=10, num_negatives=64)
    fitted = fit_index(
        users,
        items,
        positives=liked,
        tx=optax.adam(3e-3),
        config=config,
        key=jax.random.key(0),
        batch_size=128,
    )
    random_nodes = unit(np.random.default_rng(2).normal(size=(20, 16)))
    points = [
        frontier(
            dot,
            None,
            index=build_index(items, nodes, capacity=45),
            items=jnp.asarray(items),
            users=jnp.asarray(users[:300]),
            k=10,
            budgets=[60, 600],
        )
        for nodes in (fitted.params["nodes"], random_nodes)
    ]
    (learned, learned_all), (random, random_all) = points
    assert learned_all.recall == random_all.recall == 1.0
    assert abs(learned.items_scored - random.items_scored) < 15
    assert learned.recall > 0.9
    assert learned.recall > random.recall + 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(k=0), "k: expected 1 to 90, the rows of items, found 0"),
        (dict(k=91), "k: expected 1 to 90, .*, found 91"),
        (dict(budget=0), "budget: expected numbers >= 1, found 0"),
        (dict(budget=np.array([20] * 8 + [-3])), "numbers >= 1, found -3"),
        (dict(max_beam=0), "max_beam: expected a number >= 1, found 0"),
        (
            dict(exclude=jnp.zeros((2, 3), int)),
            r"exclude: expected shape \[9, E\].* found \[2, 3\]",
        ),
        (dict(allowed=jnp.ones(9, bool)), r"allowed: expected shape \[90\].* found \[9\]"),
    ],
)
def test_bad_input(change, message):
    index, items, users = integer_problem(0)
    arguments = dict(k=5, budget=30) | change
    with pytest.raises(ValueError, match=message):
        search(dot, None, index=index, items=items, users=users, k=arguments.pop("k"), **arguments)


def test_the_answer_to_nobody_is_like_any_other():
    index, items, users = integer_problem(0)
    found = search(dot, None, index=index, items=items, users=users[:1], k=3, budget=40)
    for none, one in zip(nothing_found(3), found, strict=True):
        assert none.shape == (0, *one.shape[1:])
        assert none.dtype == one.dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k: expected 1 to 90"),
        ({"k": ITEMS + 1}, "k: expected 1 to 90"),
        ({"exclude": np.zeros((2, 3), np.int32)}, "exclude: expected shape"),
        ({"allowed": np.ones(5, bool)}, "allowed: expected shape"),
    ],
)
def test_brute_force_refuses_what_a_search_does(change, message):
    _, items, users = integer_problem(0)
    with pytest.raises(ValueError, match=message):
        brute_force(dot, None, items=items, users=users, **({"k": 3} | change))
