"""An index of the caller's finds the items; at its full budget answers are those without one."""

import numpy as np
import pytest

import hsnn_jax
from nxtpost_jax.events.sequences import PAD
from nxtpost_jax.serving import programs
from nxtpost_jax.serving.recommender import Recommender
from tests.nxtpost.serving.test_warming import compiled
from tests.nxtpost.small_recommender import FAST, TINY, N, cycles, drawn_content


class BruteForce:
    """Hold vectors by id, count calls, and compare all of them by inner product."""

    def __init__(self):
        self.items, self.calls, self.room, self.failing = {}, [], 0, False

    def build_index(self, vectors, *, item_ids, reserve):
        self._called("build_index")
        self.items, self.room = dict(zip(item_ids.tolist(), vectors)), reserve

    def add(self, vectors, ids):
        self._called("add")
        assert len(ids) <= self.room and not set(ids.tolist()) & set(self.items)
        self.items |= dict(zip(ids.tolist(), vectors))
        self.room -= len(ids)

    def remove(self, ids):
        self._called("remove")
        for item in ids.tolist():
            del self.items[item]
        self.room += len(ids)

    def search(self, vectors, k, *, exclude, allowed):
        self._called("search")
        ids = np.array(sorted(self.items))
        scores = vectors @ np.stack([self.items[item] for item in ids.tolist()]).T
        if allowed is not None:
            scores[:, ~np.isin(ids, allowed)] = -np.inf
        if exclude is not None:
            for row, out in zip(scores, exclude):
                row[np.isin(ids, out)] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(scores, order, 1)
        missing = [(0, 0), (0, k - order.shape[1])]
        found = np.pad(np.where(np.isneginf(best), -1, ids[order]), missing, constant_values=-1)
        return found, np.pad(best, missing, constant_values=-np.inf)

    def _called(self, name):
        if self.failing:
            raise ValueError("ids: expected room, found none")
        self.calls.append(name)


class Everything(hsnn_jax.Retriever):
    """Search with a budget of all items."""

    def search(self, vectors, k, **limits):
        return super().search(vectors, k, budget=10_000, **limits)


def retriever():
    return Everything(hsnn_jax.LTIConfig(num_nodes=4))


def fitted(index):
    recommender = Recommender(TINY, drawn_content("vectors"), tx=FAST, index=index)
    recommender.fit(cycles(), epochs=1, batch_size=32, num_negatives=16)
    return recommender


def same(with_index, without):
    """All requests give the same items."""
    history = [[0, 1, 2], [9], [3, 4, 5, 6, 7]]
    vectors = without.embed_users(history)
    for ask in (
        lambda r: r.recommend(history, 4),
        lambda r: r.recommend(history, 7, exclude=[[10, 11], [PAD, 3], []], exclude_seen=False),
        lambda r: r.recommend(history, 8, allowed=[1, 2, 3, 8, 15]),
        lambda r: r.search(vectors, 3),
        lambda r: r.similar([5, 8], 6),
    ):
        one, other = ask(with_index), ask(without)
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


@pytest.mark.parametrize("make", [BruteForce, retriever])
def test_answers_at_full_budget_are_those_without_an_index(make, tmp_path, monkeypatch):
    recommender, plain = fitted(make()), fitted(None)
    scans = []
    scan = programs.nearest
    monkeypatch.setattr(
        "nxtpost_jax.serving.requests.nearest",
        lambda *of, **options: (scans.append(1), scan(*of, **options))[1],
    )
    for each in (recommender, plain):
        each.update("a", 3)
    np.testing.assert_array_equal(*(r.recommend_user("a", 5).ids for r in (recommender, plain)))
    del scans[:]
    same(recommender, plain)
    assert len(scans) == 5  # the plain one's
    for each in (recommender, plain):
        each.remove([2, 9])
        each.add(drawn_content("vectors", 3, seed=1))
        each.add(ids=[9])
    same(recommender, plain)
    assert len(scans) == 10
    recommender.save(tmp_path / "saved")
    same(Recommender.load(tmp_path / "saved", index=make()), plain)
    assert len(scans) == 15


def test_an_index_is_warmed_up_with_its_recommender():
    recommender = fitted(hsnn_jax.Retriever(hsnn_jax.LTIConfig(num_nodes=4)))
    recommender.warm_up(k=4)
    with compiled() as found:
        for history in ([0], [1, 2, 3], list(range(9))):
            recommender.recommend([history], 3)
            recommender.recommend([history], 4, exclude_seen=False)
        recommender.add(drawn_content("vectors", 1, seed=1))
        recommender.recommend([[5, 6]], 4)
    assert found == []
    fitted(BruteForce()).warm_up()  # has nothing to compile


def test_a_fit_rebuilds_and_what_comes_and_goes_is_passed_on():
    index = BruteForce()
    recommender = fitted(index)
    assert index.calls == ["build_index"] and sorted(index.items) == list(range(N))
    recommender.remove([4])
    recommender.add(drawn_content("vectors", 2, seed=1))
    assert index.calls == ["build_index", "remove", "add"]
    assert sorted(index.items) == sorted(recommender.items)
    recommender.remove([N, N + 1])
    recommender.fit(cycles(), epochs=1, batch_size=32, num_negatives=16)
    assert index.calls[-2:] == ["remove", "build_index"]
    assert sorted(index.items) == sorted(set(range(N)) - {4})


def test_an_index_without_room_is_rebuilt_with_more():
    index = BruteForce()
    recommender = fitted(index)
    recommender.add(drawn_content("vectors", index.room, seed=1))
    assert index.calls == ["build_index", "add"] and index.room == 0
    recommender.add(drawn_content("vectors", 1, seed=2))
    assert index.calls == ["build_index", "add", "build_index"] and index.room > 0
    assert sorted(index.items) == sorted(recommender.items)


def test_an_index_that_refuses_an_item_leaves_all_as_before():
    index = BruteForce()
    recommender = fitted(index)
    before, items = recommender.recommend([[1, 2]], 5), recommender.items
    index.failing = True
    with pytest.raises(ValueError, match="expected room, found none"):
        recommender.add(drawn_content("vectors", 1))
    with pytest.raises(ValueError, match="expected room, found none"):
        recommender.remove([3])
    index.failing = False
    np.testing.assert_array_equal(recommender.items, items)
    np.testing.assert_array_equal(recommender.recommend([[1, 2]], 5).ids, before.ids)
    assert index.calls[-1] == "search"


def test_a_fit_whose_index_cannot_be_built_serves_without_it():
    index = BruteForce()
    index.failing = True
    recommender = Recommender(TINY, drawn_content("vectors"), tx=FAST, index=index)
    with pytest.raises(ValueError, match="expected room, found none"):
        recommender.fit(cycles(), epochs=1, batch_size=32, num_negatives=16)
    same(recommender, fitted(None))


def test_an_item_of_which_nothing_is_known_is_in_no_index():
    index = BruteForce()
    recommender = fitted(index)
    vectors = np.array(recommender.catalogue.vectors[: len(recommender.catalogue.base.ids)])
    vectors[7] = 0
    blank = recommender.catalogue.of_vectors(vectors)
    recommender._served.replace(recommender.params, blank)
    assert 7 not in index.items and 7 not in recommender.recommend([[1]], N - 1).ids
    recommender.remove([7])
    assert index.calls[-1] == "search" and 7 not in recommender.items


def test_an_index_in_the_midst_of_a_change_is_not_asked(monkeypatch):
    """Nor is an answer taken that was found before and after."""
    index = BruteForce()
    recommender, plain = fitted(index), fitted(None)
    reader = recommender._reader()
    found = index.search

    def search(*of, **limits):
        monkeypatch.setattr(index, "search", found)
        recommender.remove([5])
        return found(*of, **limits)

    monkeypatch.setattr(index, "search", search)
    (one, _), (other, _) = (each.recommend([[1]], 9) for each in (recommender, plain))
    np.testing.assert_array_equal(one, other)
    assert reader.mirror._holds is recommender.catalogue
    vectors = plain.embed_users([[1]])
    assert (
        reader.mirror.search(vectors, 3, catalogue=reader.catalogue, exclude=None, allowed=None)
        is None
    )
