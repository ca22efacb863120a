"""A cheap scorer that chooses what the retriever's own scores."""

import copy
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hsnn_jax import LTIConfig, Pool, Retriever, RouteConfig
from hsnn_jax.descent.search import compiled_search
from hsnn_jax.monn import network as monn
from hsnn_jax.monn.scorers import init_mol, mol, pair_flops
from tests.hsnn import three_levels
from tests.hsnn.planted import same_answers
from tests.hsnn.serving import test_retriever_mesh as spread
from tests.hsnn.serving.test_retriever import ALL, CONFIG, IDS, data

K = 5
MOL = init_mol(jax.random.key(1), 8, item_width=8, user_parts=2, item_parts=2, part_width=4)


def constant(params, users, items):
    """All items tie."""
    return jnp.zeros((users.shape[0], items.shape[1]))


def two_stages(pool, **options):
    retriever = Retriever(CONFIG, scorer=mol, params=MOL, candidates=pool, **options)
    retriever.build_index(data()[0], item_ids=IDS)
    return retriever


def with_pool(retriever, pool):
    retriever = copy.copy(retriever)
    retriever.candidates = pool
    return retriever


def scores_of_all():
    """The cheap and the expensive scores [B, n]."""
    items, users, _ = data()
    return users @ items.T, np.asarray(mol(MOL, users, np.repeat(items[None], len(users), 0)))


def ask(retriever, users, ids):
    """Answers to requests through the nodes and among the rows that are allowed."""
    exclude = np.repeat(ids[None, [3, 4, 4, 11]], len(jax.tree.leaves(users)[0]), axis=0)
    for budget in (9, 30, ALL):
        yield retriever.search(users, K, budget=budget, exclude=exclude, allowed=ids[1::2])


@pytest.mark.parametrize("kind", ["vectors", pytest.param("levels", marks=pytest.mark.long)])
def test_a_pool_that_holds_what_is_scored_changes_no_answer(kind):
    if kind == "vectors":
        retriever, users, ids = two_stages(None), data()[1], IDS
    else:
        retriever, users = three_levels.first()[0], three_levels.users()
        ids = retriever.ids[: three_levels.ITEMS]
    both = zip(ask(retriever, users, ids), ask(with_pool(retriever, Pool(120)), users, ids))
    for one, two in both:
        np.testing.assert_array_equal(two.ids, one.ids)
        # Rows are read in another order, and XLA sums in another one then.
        np.testing.assert_allclose(two.scores, one.scores, rtol=1e-5, atol=1e-6)
        for name in ("unseen", "items_scored", "nodes_scored"):
            np.testing.assert_array_equal(getattr(two, name), getattr(one, name), name)


@pytest.mark.parametrize("size", [20, 70])
@pytest.mark.parametrize("allowed", [None, np.arange(0, 120, 4) + 1, np.arange(1, 101)])
def test_the_best_of_a_pool_by_hand(size, allowed):
    cheap, dear = scores_of_all()
    _, users, _ = data()
    retriever = two_stages(Pool(size))
    excluded = np.tile([7, 9, 9, 50], (40, 1))
    rows = np.arange(120) if allowed is None else allowed
    may = np.isin(np.arange(120), np.setdiff1d(rows, excluded[0]))
    first = np.argsort(-np.where(may, cheap, -np.inf), axis=1)[:, : min(size, may.sum())]
    again = np.argsort(-np.take_along_axis(dear, first, axis=1), axis=1)[:, :K]
    allowed_ids = None if allowed is None else IDS[allowed]
    answer = retriever.search(users, K, budget=ALL, exclude=IDS[excluded], allowed=allowed_ids)
    np.testing.assert_array_equal(answer.ids, IDS[np.take_along_axis(first, again, axis=1)])
    np.testing.assert_array_equal(answer.unseen, max(may.sum() - size, 0))


def test_operations_of_both_stages_are_counted():
    items, users, _ = data()
    _, per_cheap = pair_flops(Pool(1).scorer, None, users=users, items=items)
    per_user, per_dear = pair_flops(mol, MOL, users=users, items=items)
    for allowed in (None, IDS[:100]):
        found = [
            two_stages(Pool(size)).search(users, K, budget=ALL, allowed=allowed)
            for size in (16, 48)
        ]
        np.testing.assert_allclose(found[1].flops - found[0].flops, 32 * per_dear)
        slots = 120 if allowed is None else 128  # at least, of whole pages; a power of two
        # Without nodes where few are allowed.
        nodes = 8 * per_dear + per_user if allowed is None else 0
        least = nodes + per_user + 16 * per_dear + slots * per_cheap
        assert (least <= found[0].flops).all() and (found[0].flops < 1.2 * least).all()
    dear = two_stages(None).search(users, K, budget=ALL).flops
    assert (found[0].flops < dear / 2).all()


def test_ties_of_the_cheap_scorer_go_to_the_first_rows():
    _, users, _ = data()
    answer = two_stages(Pool(16, scorer=constant)).search(users, 16, budget=ALL)
    expected = np.tile(np.sort(IDS[:16]), (40, 1))
    np.testing.assert_array_equal(np.sort(answer.ids, axis=1), expected)


def test_it_may_score_the_nodes_too():
    _, users, _ = data()
    retriever = two_stages(Pool(120, nodes=True))
    nodes = np.asarray(retriever.index.nodes)
    best = np.argmax(users @ nodes.T, axis=1)
    answer = retriever.search(users, K, budget=1)
    np.testing.assert_array_equal(answer.items_scored, np.asarray(retriever.index.counts)[best])
    other = two_stages(Pool(120)).search(users, K, budget=1)
    assert (answer.ids != other.ids).any() and (answer.flops < other.flops).mean() > 0.9
    whole = two_stages(None).search(users, K, budget=ALL)
    np.testing.assert_array_equal(retriever.search(users, K, budget=ALL).ids, whole.ids)


def test_one_program_serves_all_budgets_and_the_frontier_knows_the_pool():
    _, users, _ = data()
    retriever, exact = two_stages(Pool(16)), two_stages(Pool(120))
    retriever.search(users, K, budget=30)
    programs = compiled_search._cache_size()
    points = retriever.frontier(users, K, budgets=(30, 60, ALL))
    assert compiled_search._cache_size() == programs
    assert points[-1].recall < 1 and points[-1].share_scored == 1
    assert points[-1].flops < points[-1].exact_flops
    assert exact.frontier(users, K, budgets=(ALL,))[0].recall == 1


@pytest.mark.long
def test_items_come_and_go_and_a_mesh_answers_as_one_device():
    kind, pool = "a model", Pool(16)
    alone = spread.retriever_of(kind, candidates=pool)
    many = spread.retriever_of(kind, candidates=pool, mesh=spread.mesh_of(4))
    for change in itertools.islice(spread.changes(kind), 3):
        change(alone), change(many)
        for one, two in zip(spread.ask(alone, kind), spread.ask(many, kind)):
            assert (one.ids >= 0).any()
            np.testing.assert_array_max_ulp(two.scores, one.scores, maxulp=4)
            same_answers(dataclasses.replace(two, scores=one.scores), one)


def test_a_pool_of_a_model_is_chosen_by_its_towers():
    retriever = spread.retriever_of("a model", candidates=Pool(16))
    next(spread.changes("a model"))(retriever)
    users = {"taste": spread.integers(1, spread.USERS, 4)}
    items = {"text": spread.integers(0, spread.ITEMS, 4)}
    model, params = retriever.model, retriever.params
    towers = [
        np.asarray(of(model, params, features=given))
        for of, given in ((monn.user_vectors, users), (monn.item_vectors, items))
    ]
    cheap = np.argsort(-(towers[0] @ towers[1].T), axis=1)[:, :16]
    answer = retriever.search(users, 16, budget=ALL)
    np.testing.assert_array_equal(np.sort(answer.ids, axis=1), np.sort(spread.IDS[cheap], axis=1))


def test_it_is_saved_and_loaded(tmp_path):
    _, users, _ = data()
    params = init_mol(jax.random.key(2), 8, item_width=8, user_parts=2, item_parts=2)
    retriever = two_stages(Pool(16, scorer=mol, params=params, nodes=True))
    retriever.save(tmp_path / "two")
    loaded = Retriever.load(tmp_path / "two", scorer=mol, candidates=mol)
    same_answers(retriever.search(users, K), loaded.search(users, K))
    with pytest.raises(ValueError, match=r"candidates: expected 'mol', with which .* found 'dot'"):
        Retriever.load(tmp_path / "two", scorer=mol)
    two_stages(Pool(16)).save(tmp_path / "two")
    assert Retriever.load(tmp_path / "two", scorer=mol).candidates.params is None


def test_what_does_not_fit_is_refused():
    for size in (0, 2.5, True):
        with pytest.raises(ValueError, match=f"size: expected an integer >= 1, found {size}"):
            Pool(size)
    with pytest.raises(ValueError, match="candidates: expected nodes=False with 3 models"):
        with_pool(three_levels.first()[0], Pool(16, nodes=True)).search(three_levels.users(), 2)
    with pytest.raises(ValueError, match="candidates: expected a Pool, found <function constant"):
        Retriever(LTIConfig(), candidates=constant)


@pytest.mark.long
def test_routes_are_learned_where_the_cheap_scorer_scores_nodes(tmp_path):
    _, users, _ = data()
    retriever = two_stages(Pool(120, nodes=True))
    whole = retriever.search(users, K, budget=ALL).ids
    config = RouteConfig(budget=40, steps=60, batch_size=16)
    losses = retriever.fit_routes(users, optax.adam(0.1), k=K, config=config)
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(retriever.search(users, K, budget=ALL).ids, whole)
    retriever.save(tmp_path / "routed")
    loaded = Retriever.load(tmp_path / "routed", scorer=mol)
    same_answers(retriever.search(users, K, budget=40), loaded.search(users, K, budget=40))
