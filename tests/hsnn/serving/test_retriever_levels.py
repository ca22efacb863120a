"""The retriever over several levels, with a model a level and with plain vectors."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsnn_jax import Retriever
from hsnn_jax.descent.search import compiled_search
from hsnn_jax.lists import edits, living
from hsnn_jax.lists.levels import nodes_of_items, representative_items
from hsnn_jax.monn import network as monn
from hsnn_jax.monn.ensemble import init_ensemble
from hsnn_jax.serving import state as nested
from hsnn_jax.serving.request import budgets_of
from tests.hsnn.planted import integers, same_answers
from tests.hsnn.three_levels import (
    CONFIG,
    FINE,
    ITEMS,
    MODELS,
    RESERVE,
    ROWS,
    USERS,
    K,
    built,
    check_answers,
    drawn_items,
    expected_scores,
    first,
    logits,
    params,
    updated,
    users,
)


@pytest.mark.long
def test_three_models_through_updates_and_the_file(tmp_path):
    retriever, truth = built()
    answer = check_answers(retriever, truth)
    assert (answer.nodes_scored == 2 + 6).all()
    for step, (kind, size) in enumerate((("add", 4), ("remove", 9), ("reassign", 3))):
        truth = updated(retriever, truth, kind, size, step)
        answer = check_answers(retriever, truth)
    path = tmp_path / "levels"
    retriever.save(path)
    loaded = Retriever.load(path)
    assert (loaded.model, loaded.task, loaded.config) == (MODELS, "buy", CONFIG)
    for budget in (None, 13, (3, 14)):
        same_answers(
            retriever.search(users(), K, budget=budget), loaded.search(users(), K, budget=budget)
        )
    assert (loaded.stats(), loaded.drift()) == (retriever.stats(), retriever.drift())
    truth = updated(loaded, truth, "add", 2, 7)
    check_answers(loaded, truth)


@settings(max_examples=6, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "remove", "reassign"]), st.integers(0, 6)),
        min_size=1,
        max_size=5,
    )
)
def test_nodes_followed_are_nodes_made_anew(operations):
    retriever, truth = built()
    for step, (kind, size) in enumerate(operations):
        truth = updated(retriever, truth, kind, size, step)
    now = retriever._now
    anew = nested.start(now.coarser, now.items, models=retriever._models)
    jax.tree.map(np.testing.assert_array_equal, now.representatives, anew.representatives)
    for followed, made, rows in zip(now.node_features, anew.node_features, anew.representatives):
        used = np.asarray(rows) >= 0
        jax.tree.map(
            lambda a, b, used=used: np.testing.assert_allclose(
                np.asarray(a)[used], np.asarray(b)[used], rtol=1e-4, atol=1e-5
            ),
            followed,
            made,
        )


def test_a_representative_that_changed_where_it_stands_is_read_anew():
    retriever, truth = built()
    rows = np.unique(np.concatenate([np.asarray(r) for r in retriever._now.representatives]))
    ids = retriever.ids[rows[rows >= 0]]
    before = retriever.search(users(), K)
    for i in ids.tolist():
        features, attributes = truth[i]  # crosses move no vector
        truth[i] = features, {"category": (attributes["category"] + 3) % 7}
    changed = jax.tree.map(lambda *rows: np.stack(rows), *[truth[i] for i in ids.tolist()])
    retriever.reassign(changed, ids)
    after = check_answers(retriever, truth)
    assert not np.allclose(after.scores, before.scores, atol=1e-3)


def test_add_then_remove_is_the_identity_on_answers():
    retriever, _ = built()
    before = [retriever.search(users(), K, budget=budget) for budget in (13, None)]
    retriever.add(drawn_items(5, RESERVE), 1000 + np.arange(RESERVE))
    retriever.remove(1000 + np.arange(RESERVE)[::-1])
    for old, budget in zip(before, (13, None)):
        new = retriever.search(users(), K, budget=budget)
        np.testing.assert_array_equal(new.ids, old.ids)
        np.testing.assert_allclose(new.scores, old.scores, rtol=1e-5)


def test_representatives_are_the_nearest_items_below():
    for seed in range(3):
        # Integers have ties; the reserve leaves free rows, and slack of 1 sends items elsewhere.
        vectors, nodes = integers(seed, ITEMS, 3), (integers(7, 2, 3), integers(8, 6, 3))
        *coarser, index = nested.build(vectors, nodes, slack=1.0, reserve=RESERVE)
        ids = np.r_[np.arange(ITEMS), np.full(RESERVE, -1)]
        items = living.start(index, vectors, ids=ids, features={"encoded": vectors})
        found = nested._representatives(coarser, items, "l2")
        expected = representative_items((*coarser, index), living.item_vectors(items))
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("budget", [None, 13, (3, 14)])
def test_removed_excluded_and_filtered_items_never_return(budget):
    retriever, truth = built()
    best = retriever.search(users(), K).ids
    retriever.remove(np.unique(best[0]))
    # An id that is unknown, one that is gone and padding exclude nothing.
    exclude = np.concatenate([best[:, :2], [[99], [best[0, 0]], [-1], [-1]]], axis=1)
    allowed = np.arange(ROWS) % 3 > 0
    given = dict(exclude=exclude, allowed=retriever.ids[allowed & (retriever.ids >= 0)])
    found = retriever.search(users(), K, budget=budget, **given)
    hidden = {*best[0].tolist(), *retriever.ids[~allowed].tolist()} - {-1}
    assert not np.isin(found.ids, list(hidden)).any()
    assert not (found.ids[:, :, None] == best[:, None, :2]).any()
    ids, scores = expected_scores(retriever, {i: truth[i] for i in truth if i not in best[0]})
    for user, row in enumerate(found.ids):
        kept = row[row >= 0]
        np.testing.assert_allclose(
            found.scores[user, : kept.size],
            scores[user, np.searchsorted(ids, kept)],
            rtol=1e-4,
            atol=1e-5,
        )


def test_nodes_without_an_allowed_item_are_pruned_at_every_level():
    retriever, _ = built()
    coarse, fine = jax.device_get(nodes_of_items(retriever.indexes))
    one = np.bincount(fine[fine < 6]).argmax()
    exclude, listed = np.full((USERS, 3), -1), fine == one
    given = dict(exclude=exclude, allowed=retriever.ids[listed])
    found = retriever.search(users(), K, budget=int(listed.sum()) - 1, **given)
    assert (found.nodes_scored == 2 + 3).all()  # the other coarse node was not opened
    assert (found.items_scored == listed.sum()).all()
    assert set(coarse[listed]) == {one // 3}
    nothing = retriever.search(users(), K, allowed=[], exclude=exclude)
    assert (nothing.ids == -1).all()


def test_nothing_is_compiled_when_items_come_and_go():
    retriever, truth = built()
    jitted = (
        *(edits.insert, edits.discard, edits.relist, nested._nearest_items),
        *(nested._gather, nested._put, monn.encode_items, monn.item_vectors, monn.encode_users),
        compiled_search,
    )

    def cycle(truth, sizes):
        for seed, (kind, size) in enumerate(zip(("add", "reassign", "remove"), sizes)):
            truth = updated(retriever, truth, kind, size, seed)
            masks = {"allowed": retriever.ids[seed:], "exclude": np.full((USERS, 3), seed)}
            retriever.search(users(), K, budget=(3 + seed, 13 + size), **masks)
        return truth

    truth = cycle(truth, (4, 9, 4))
    before = [function._cache_size() for function in jitted]
    truth = cycle(truth, (2, 1, 9))
    cycle(truth, (6, 5, 3))
    assert [function._cache_size() for function in jitted] == before


def test_updates_that_fail_change_nothing():
    retriever, _ = built()
    before, (features, attributes) = retriever._now, drawn_items(1, 2)
    spoilt = {**features, "text": np.full((2, 4), np.nan, np.float32)}
    for update, message in (
        (lambda: retriever.add((spoilt, attributes), [1, 2]), "expected finite values, found NaN"),
        (
            lambda: retriever.add((features, attributes), [1, 100]),
            "ids: expected new ones, found 100",
        ),
        (
            lambda: retriever.add((features, {"category": np.zeros((2, 3), int)}), [1, 2]),
            r"\['category'\]: expected int32 \(2, 2\), found int32 \(2, 3\)",
        ),
        (lambda: retriever.add(features, [1, 2]), r"\['category'\]: expected int32 .*, found none"),
        (lambda: retriever.remove([100, 1]), "ids: expected ids that the index holds, found 1"),
        (
            lambda: retriever.reassign((features, attributes), [100, 1]),
            "ids that the index holds, found 1",
        ),
        (
            lambda: retriever.search(users(), K, budget=(13,)),
            "budget: expected 2 entries, one per level of nodes, found 1",
        ),
        (
            lambda: retriever.search(users(), K, budget=(0, 32)),
            "budget: expected numbers >= 1, found 0",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            update()
        assert retriever._now is before


def test_budgets_of_coarser_levels_narrow_in_equal_ratios():
    retriever, _ = built()
    capacities = [index.lists.shape[1] for index in retriever.indexes]
    for budget, fine in ((13, 6 * (13 / 32) ** 0.5), (20, 6 * (20 / 32) ** 0.5), (32, 6)):
        upper, last = budgets_of(retriever._now, budget, k=K, num_users=USERS)
        assert (upper, last) == (max(np.ceil(fine), capacities[0]), budget)
    per_user = budgets_of(retriever._now, np.array([13, 32, 40]), k=K, num_users=3)
    assert per_user[0].tolist() == [4, 6, 6]
    given = retriever.search(users(), K, budget=(4, 13))
    same_answers(given, retriever.search(users(), K, budget=np.full(USERS, 13)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(model=MODELS[1:]), "model: expected one, or 3, .*, found 2"),
        (dict(params=params()["models"][0]), 'params: expected "models", 3 of them, found 0'),
        (dict(params={"models": params()["models"][:2]}), "3 of them, found 2"),
        (
            dict(params=params() | {"ensemble": init_ensemble(2)}),
            "ensemble: expected 3 levels, found 2",
        ),
        (
            dict(params=params() | {"nodes": (np.ones((2, 3)),)}),
            r"nodes: expected \(2, 3\) by level, found",
        ),
        (dict(task="like"), "task: expected one of"),
        (dict(scorer=monn.MoNNScorer(FINE)), "scorer: expected none with a model, found"),
    ],
)
def test_bad_levels(options, message):
    with pytest.raises(ValueError, match=message):
        Retriever(CONFIG, **dict(model=MODELS, params=params()) | options)


def test_one_model_may_score_all_levels():
    of_model, items = params()["models"][-1], drawn_items(0, ITEMS)
    retriever = Retriever(CONFIG, model=FINE, params=of_model, task="buy", nested=True)
    retriever.nodes = first()[0].nodes
    retriever.build_index(items, reserve=RESERVE)
    retriever.remove(np.arange(5))
    retriever.add(items_of(items, slice(0, 2)), [0, 1])
    now = retriever._now
    encoded = living.item_features(now.items)["encoded"]
    for features, rows in zip(now.node_features, now.representatives):
        rows = np.asarray(rows)
        for own, whole in zip(jax.tree.leaves(features), jax.tree.leaves(encoded)):
            np.testing.assert_array_equal(own[rows >= 0], whole[rows[rows >= 0]])
    kept = np.r_[0, 1, 5:ITEMS]
    scores = logits(2, items_of(items, kept))
    order = np.argsort(-scores, axis=1)[:, :K]
    np.testing.assert_array_equal(retriever.search(users(), K).ids, kept[order])


def items_of(items, rows):
    return jax.tree.map(lambda x: x[rows], items)


def test_plain_vectors_go_through_the_levels_of_their_nodes(tmp_path):
    items, people = integers(0, ITEMS, 3), integers(1, USERS, 3)
    retriever = Retriever(CONFIG, nested=True, max_beam=(2, 4))
    stats = retriever.build_index(items, reserve=RESERVE)
    assert (stats["nodes"], len(retriever.indexes)) == (6, 2)
    path = tmp_path / "vectors"
    retriever.save(path)
    loaded = Retriever.load(path)
    assert (loaded.nested, loaded.max_beam) == (True, (2, 4))
    same_answers(loaded.search(people, K), retriever.search(people, K))
    loaded.max_beam = None
    whole = loaded.search(people, K)
    assert (whole.nodes_scored == 2 + 6).all()
    best = np.sort(people @ items.T, axis=1)[:, ::-1]
    np.testing.assert_array_equal(whole.scores, best[:, :K])
    small = loaded.search(people, K, budget=(3, 13))
    assert (small.nodes_scored == 2 + 3).all()
    assert (small.items_scored <= 13).all()
    loaded.add(3 * people, 100 + np.arange(USERS))
    assert (loaded.search(people, K).ids >= 100).any()
    loaded.remove(100 + np.arange(USERS))
    same_answers(loaded.search(people, K), whole)
