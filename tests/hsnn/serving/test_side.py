"""Items that wait beside the lists are found as if the lists had them."""

import copy
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsnn_jax import LTIConfig, Retriever
from hsnn_jax.monn.scorers import dot
from hsnn_jax.serving import calibration, side
from hsnn_jax.serving.pool import Pool
from tests.hsnn.planted import clusters, integers, same_answers, users_near
from tests.hsnn.serving.test_retriever import model_inputs, modelled
from tests.hsnn.serving.test_retriever_threads import run_together

CONFIG = LTIConfig(num_nodes=6, kmeans_iterations=3)
# Small integers: sums are exact, and many items are equal or tie.
ITEMS, MORE, USERS = integers(0, 60, 4), integers(1, 40, 4), integers(2, 7, 4)
ALL = 10**6  # a budget that holds all items


def squares(params, users, items):
    del params
    return jnp.einsum("bmd,bd->bm", items, users) ** 2


def sometimes_nan(params, users, items):
    return jnp.where(items[..., 0] == 2, jnp.nan, squares(params, users, items))


@pytest.fixture
def small(monkeypatch):
    """A side list that is soon full."""
    monkeypatch.setattr(side, "SIZE", 8)


def built(ids=None, reserve=100, **options):
    retriever = Retriever(CONFIG, **options)
    retriever.build_index(ITEMS, item_ids=ids, reserve=reserve)
    return retriever


def beside(retriever):
    return side.size(retriever._now.side)


def with_few_beside(**options):
    """Rows in the midst are free, which the items beside the lists are going to have."""
    retriever = built(**options)
    retriever.remove([3, 11, 40])
    retriever.add(MORE[:4], [104, 103, 102, 101])
    retriever.add(ITEMS[5:9], np.arange(200, 204))  # equal to some in the lists
    assert beside(retriever) == 8
    return retriever


def listed(retriever):
    """The same items, all in the lists."""
    other = copy.copy(retriever)
    other.stats()
    assert beside(other) == 0
    return other


@pytest.mark.parametrize(
    "scorer", [dot, *(pytest.param(s, marks=pytest.mark.long) for s in (squares, sometimes_nan))]
)
def test_answers_are_those_of_the_lists_with_these_items(scorer):
    retriever = with_few_beside(scorer=scorer)
    other = listed(retriever)
    assert beside(retriever) == 8  # a copy that lists them changes no other
    rng = np.random.default_rng(0)
    every = np.r_[np.arange(60), 101:105, 200:204, 999]
    own = np.stack([rng.choice(every, 12, replace=False) for _ in USERS])
    own[0, :], own[1, 4:] = -1, -1
    for options in (
        {"k": 9},
        {"k": 1},
        {"k": 1000},
        {"k": 5, "allowed": every[::2]},
        {"k": 5, "allowed": [101, 203]},
        {"k": 5, "allowed": [7]},
        {"k": 5, "allowed": []},
        {"k": 5, "allowed": own},
        {"k": 5, "exclude": own},
        {"k": 5, "allowed": own, "exclude": own[:, ::2]},
    ):
        answer, expected = (r.search(USERS, budget=ALL, **options) for r in (retriever, other))
        np.testing.assert_array_equal(answer.ids, expected.ids)
        np.testing.assert_array_equal(answer.scores, expected.scores)
        np.testing.assert_array_equal(answer.unseen, 0)
        np.testing.assert_array_equal(answer.recall, 1)
    whole, expected = (r.search(USERS, 3, budget=ALL) for r in (retriever, other))
    np.testing.assert_array_equal(whole.items_scored, expected.items_scored)
    assert (whole.items_scored == 65).all()
    assert retriever.search(USERS[:0], 3).ids.shape == (0, 3)


def test_k_reaches_beyond_the_rows_of_the_lists():
    retriever = built(reserve=0)
    retriever.add(MORE[:5], np.arange(100, 105))
    answer = retriever.search(USERS, 70, budget=ALL)
    assert answer.ids.shape == (7, 70)
    assert (answer.ids[:, 65:] == -1).all()
    assert (np.sort(answer.ids[:, :65], axis=1) == np.r_[:60, 100:105]).all()
    np.testing.assert_array_equal(answer.ids, listed(retriever).search(USERS, 70, budget=ALL).ids)


def test_a_model_scores_them_as_it_scores_the_others():
    retriever, _ = modelled()
    users, more = model_inputs(1, 6, 5)
    retriever.add(more, [7, 8, 9, 10, 11])
    retriever.upsert(jax.tree.map(lambda x: x[1:4], more), [7, 105, 12])
    retriever.remove([9])
    assert beside(retriever) == 6
    other = listed(retriever)
    options = ({}, {"allowed": [7, 105, 104, 12]}, {"exclude": np.tile([7, 105, 101], (6, 1))})
    for given in options:
        answer, expected = (r.search(users, 10, budget=ALL, **given) for r in (retriever, other))
        np.testing.assert_array_equal(answer.ids, expected.ids)
        # A score near 0 is a sum of products near 1: it is as exact as these.
        np.testing.assert_allclose(answer.scores, expected.scores, rtol=1e-5, atol=1e-6)


def test_they_are_found_at_any_budget_and_tell_nothing_of_the_lists(monkeypatch):
    monkeypatch.setattr(calibration, "_LEAST_ITEMS", 64)
    items, _ = clusters(0, items=400, width=8, num_clusters=10, noise=0.7)
    users, _ = users_near(1, items, users=12, noise=0.9)
    retriever = Retriever(LTIConfig(num_nodes=12, kmeans_iterations=3))
    retriever.build_index(items, reserve=10)
    before = retriever.search(users, 5, budget=60)
    assert (before.unseen > 0).all() and (before.recall < 1).any()
    retriever.add(np.zeros((3, 8)), [1000, 1001, 1002])  # below the best five
    after = retriever.search(users, 5, budget=60)
    for name in ("ids", "unseen", "recall", "nodes_scored"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    np.testing.assert_array_equal(after.items_scored, before.items_scored + 3)
    assert (after.flops > before.flops).all()
    retriever.add(9 * users, np.arange(2000, 2012))
    for options in ({"budget": 1}, {"budget": 60}, {"recall": 0.8}, {"recall": 0.8, "budget": 60}):
        found = retriever.search(users, 5, **options)
        np.testing.assert_array_equal(found.ids[:, 0], np.arange(2000, 2012))
    wanted = retriever.search(users, 5, recall=0.8)
    assert (wanted.recall >= 0.8).all()


def test_items_come_change_and_go_beside_the_lists():
    retriever = built()
    far = 9 * USERS[:3]
    retriever.add(far[:2], [100, 101])
    retriever.upsert(far[1:], [100, 7])  # one waits, the other is in the lists
    assert beside(retriever) == 3
    truth = np.concatenate([ITEMS, far[[1, 1]]])
    truth[7] = far[2]
    ids = np.r_[:60, 100, 101]
    found = retriever.search(USERS, 62, budget=ALL)
    scores = USERS @ truth.T
    np.testing.assert_array_equal(found.scores, -np.sort(-scores, axis=1))
    for user in range(7):
        by_id = dict(zip(ids.tolist(), scores[user].tolist()))
        assert found.pairs(user) == [(i, by_id[i]) for i in found.ids[user].tolist()]
    retriever.remove([101, 7, 12])
    assert beside(retriever) == 1
    retriever.remove([100])
    assert retriever._now.side is None
    left = np.setdiff1d(np.arange(60), [7, 12])
    assert (np.sort(retriever.search(USERS, 58, budget=ALL).ids, axis=1) == left).all()
    retriever.add(far[:2], [100, 101])
    retriever.remove(left)
    assert (np.sort(retriever.search(USERS, 3).ids, axis=1) == [-1, 100, 101]).all()


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (lambda r: r.add(MORE[:2], [99, 101]), "ids: expected new ones, found 101, which the inde"),
        (lambda r: r.add(MORE[:2], [99, 5]), "ids: expected new ones, found 5, which the index"),
        (lambda r: r.add(MORE[:2], [99, 99]), "ids: expected distinct ids, found 99 twice"),
        (lambda r: r.add(MORE[:1, :3], [99]), r"vectors: expected shape \[rows, 4\], found \[1, 3"),
        (lambda r: r.add(np.nan * MORE[:1], [99]), "vectors: expected finite values"),
        (lambda r: r.upsert(np.full((1, 4), np.inf), [101]), "vectors: expected finite values"),
        (lambda r: r.remove([101, 99]), "ids: expected ids that the index holds, found 99"),
        (lambda r: r.remove([101, 101]), "ids: expected distinct ids, found 101 twice"),
        (lambda r: r.reassign(MORE[:1], [99]), "ids: expected ids that the index holds, found 99"),
    ],
)
def test_what_fails_changes_nothing(update, message):
    retriever = with_few_beside()
    before = retriever._now
    with pytest.raises(ValueError, match=message):
        update(retriever)
    assert retriever._now is before


@pytest.mark.parametrize("count", [0, 7, 8, 9, 20])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_full_side_list_goes_into_the_lists(small, count, at_once):
    retriever, ids = built(), np.arange(100, 100 + count)
    for part in [slice(count)] if at_once else [slice(i, i + 1) for i in range(count)]:
        retriever.add(MORE[part][:count], ids[part])
    left = count if count <= 8 else 0 if at_once else count % 9
    assert beside(retriever) == left
    found = retriever.search(USERS, 60 + count, budget=ALL)
    np.testing.assert_array_equal(np.sort(found.ids, axis=1), np.tile(np.r_[:60, ids], (7, 1)))
    best = -np.sort(-(USERS @ np.concatenate([ITEMS, MORE[:count]]).T), axis=1)
    np.testing.assert_array_equal(found.scores, best)


def test_what_reads_or_changes_the_whole_has_all_items(tmp_path):
    retriever = with_few_beside()
    held = np.r_[np.setdiff1d(np.arange(60), [3, 11, 40]), 101:105, 200:204]
    answer = retriever.search(USERS, 10, budget=ALL)
    for read in (
        lambda r: r.stats()["items"],
        lambda r: int(r.index.counts.sum()),
        lambda r: int(r.indexes[0].counts.sum()),
        lambda r: int((r.ids >= 0).sum()),
        lambda r: r.rebuild(seed=1)["items"],
        lambda r: r.frontier(USERS, 3, budgets=[ALL])[0].items_scored,
    ):
        other = copy.copy(retriever)
        assert read(other) == held.size
        np.testing.assert_array_equal(other.search(USERS, 10, budget=ALL).scores, answer.scores)
    assert beside(retriever) == 8
    moved = copy.copy(retriever)
    moved.reassign(9 * USERS[:2], [101, 5])
    assert moved.search(USERS[:2], 1).ids.tolist() == [[101], [5]]
    retriever.save(tmp_path / "saved")
    loaded = Retriever.load(tmp_path / "saved")
    same_answers(loaded.search(USERS, 10, budget=30), retriever.search(USERS, 10, budget=30))
    np.testing.assert_array_equal(loaded.search(USERS, 10, budget=ALL).ids, answer.ids)


@pytest.mark.parametrize("kind", ["int64", "words"])
def test_random_updates_against_a_dict(small, kind):
    """Searches between updates find what a dict of the items says, whatever waits where."""
    rng = np.random.default_rng(5)
    name = (lambda i: 2**62 + int(i)) if kind == "int64" else (lambda i: f"item {i}")
    retriever = built(ids=[name(i) for i in range(60)], reserve=300)
    truth, seen = {name(i): ITEMS[i] for i in range(60)}, set()
    for step in range(60):
        count = int(rng.choice([1, 1, 1, 2, 5, 12]))
        fresh = [name(1000 * (step + 1) + i) for i in range(count)]
        some = [list(truth)[i] for i in rng.choice(len(truth), count, replace=False)]
        vectors = rng.integers(-3, 4, (count, 4)).astype(np.float32)
        match rng.choice(["add", "add", "upsert", "remove"]):
            case "add":
                retriever.add(vectors, fresh)
                truth |= dict(zip(fresh, vectors))
            case "upsert":
                ids = [*some[: count // 2], *fresh[count // 2 :]]
                retriever.upsert(vectors, ids)
                truth |= dict(zip(ids, vectors))
            case "remove":
                retriever.remove(some)
                truth = {i: x for i, x in truth.items() if i not in some}
        seen.add(beside(retriever))
        refused = [[list(truth)[i]] for i in rng.choice(len(truth), 3)]
        answer = retriever.search(USERS[:3], 10, budget=ALL, exclude=refused)
        for user in range(3):
            scores = {i: float(USERS[user] @ x) for i, x in truth.items() if [i] != refused[user]}
            best = sorted(scores.values(), reverse=True)[:10]
            pairs = answer.pairs(user)
            assert [score for _, score in pairs] == best
            assert all(scores[i] == score for i, score in pairs)
            assert len({i for i, _ in pairs}) == 10
    assert len(seen) > 4
    assert sorted(truth) == sorted(i for i in retriever.ids.tolist() if i not in (None, -1))


def test_readers_lose_nothing_while_items_come(small):
    retriever, user = built(), np.float32([[1, 0, 0, 0]])
    retriever.warm_up(k=40, batch=1)
    added, writing = [0], threading.Event()

    def write():
        for i in range(30):
            retriever.add(np.float32([[100 + i, 0, 0, 0]]), [1000 + i])
            added[0] = i + 1
        writing.set()

    def read():
        last = False
        while not last:
            last, before = writing.is_set(), added[0]
            found = retriever.search(user, 40, budget=ALL).ids[0].tolist()
            assert found == sorted(found, key=lambda i: -i if i >= 1000 else 0)
            new = [i for i in found if i >= 1000]
            assert sorted(new) == list(range(1000, 1000 + len(new)))  # none in between is lost
            assert before <= len(new) <= added[0] + 1

    run_together([write, read, read])
    assert retriever.stats()["items"] == 90


@pytest.mark.parametrize("kind", ["pool", "levels", "mesh"])
def test_elsewhere_an_add_lists_at_once(kind):
    options = {
        "pool": {"candidates": Pool(20)},
        "levels": {"nested": True},
        "mesh": {"mesh": jax.make_mesh((2,), ("lists",))},
    }[kind]
    nodes = (2, 3) if kind == "levels" else 6
    retriever = Retriever(LTIConfig(num_nodes=nodes, kmeans_iterations=3), **options)
    retriever.build_index(ITEMS, reserve=10)
    retriever.add(9 * USERS[:2], [100, 101])
    retriever.upsert(9 * USERS[2:3], [101])
    assert retriever._now.side is None
    assert retriever.search(USERS[[0, 2]], 1, budget=ALL).ids.tolist() == [[100], [101]]
