"""A retriever that grows: more rows, items as they are now, new nodes for what it holds."""

import threading

import jax
import numpy as np
import optax
import pytest

from hsnn_jax import LTIConfig, Retriever, recall
from hsnn_jax.lists import living
from hsnn_jax.serving import building
from tests.hsnn.lists.test_living import check_consistent, integers, started
from tests.hsnn.planted import clusters, same_answers, users_near
from tests.hsnn.serving.test_retriever import check_answers, model_inputs, modelled

CONFIG = LTIConfig(num_nodes=6, kmeans_iterations=4)


def items_of(seed, rows=60):
    return clusters(seed, items=rows, width=8, num_clusters=6, noise=0.6)[0]


def built(rows=60, **options):
    retriever = Retriever(CONFIG, **options)
    retriever.build_index(items_of(0, rows))
    return retriever


def test_rows_and_lists_double_as_often_as_it_takes():
    now, truth = started(2)
    capacity = now.index.lists.shape[1]
    vectors = integers(1, 70, 3)
    grown = living.add(now, vectors, ids=np.arange(1000, 1070))
    check_consistent(grown, truth | dict(zip(range(1000, 1070), vectors)))
    assert grown.ids.size == 4 * now.ids.size >= 86
    assert grown.index.lists.shape[1] == 4 * capacity
    check_consistent(living.remove(grown, np.arange(1000, 1070)), truth)
    check_consistent(now, truth)


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_full_index_takes_more(devices, tmp_path):
    mesh = jax.make_mesh((2,), ("lists",)) if devices == 2 else None
    retriever, more = built(mesh=mesh), items_of(1, 200)
    for start in range(0, 200, 40):
        retriever.add(more[start : start + 40], 60 + np.arange(start, start + 40))
    whole = np.concatenate([items_of(0), more])
    answer = retriever.search(more[:9], 5, budget=260)
    np.testing.assert_array_equal(answer.ids, np.argsort(-(more[:9] @ whole.T), axis=1)[:, :5])
    assert retriever.ids.size == 60 * 8
    retriever.save(tmp_path / "saved")
    loaded = Retriever.load(tmp_path / "saved").search(more[:9], 5, budget=260)
    same_answers(loaded, retriever.search(more[:9], 5, budget=260))
    np.testing.assert_array_equal(loaded.ids, answer.ids)
    retriever.rebuild(reserve=4)
    assert retriever.ids.size == 264
    again = retriever.search(more[:9], 5, budget=260)
    np.testing.assert_array_equal(again.ids, answer.ids)


def test_a_model_is_carried_into_more_rows():
    retriever, truth = modelled()
    _, more = model_inputs(1, 1, 12)  # 8 rows are free
    retriever.add(more, 500 + np.arange(12))
    truth |= {500 + i: jax.tree.map(lambda x, i=i: x[i], more) for i in range(12)}
    answer = retriever.search(model_inputs(9, 5, 1)[0], 44, budget=1000)
    assert (np.sort(answer.ids, axis=1) == sorted(truth)).all()


def test_upsert_lists_items_as_they_are_now():
    retriever, items = built(), items_of(0)
    changed = items_of(5, 4)
    retriever.upsert(changed, [3, 100, 7, 101])
    whole = np.concatenate([items, changed[[1, 3]]])
    whole[[3, 7]] = changed[[0, 2]]
    ids = np.r_[np.arange(60), 100, 101]
    answer = retriever.search(changed, 5, budget=100)
    np.testing.assert_array_equal(answer.ids, ids[np.argsort(-(changed @ whole.T), axis=1)[:, :5]])
    assert retriever.stats()["items"] == 62
    before = retriever._now
    with pytest.raises(ValueError, match="vectors: expected finite values"):
        retriever.upsert(np.full((1, 8), np.nan), [3])
    assert retriever._now is before


def test_upsert_encodes_what_changed():
    retriever, truth = modelled()
    _, more = model_inputs(7, 1, 3)
    retriever.upsert(more, [100, 131, 9])
    truth |= {
        i: jax.tree.map(lambda x, row=row: x[row], more) for row, i in enumerate((100, 131, 9))
    }
    check_answers(retriever, truth)


def churned():
    """Twenty rounds in which a tenth of the items go and others come, around centres that move."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(20, 16))
    near = lambda count: (  # noqa: E731
        centres[rng.integers(0, 20, count)] + 0.4 * rng.normal(size=(count, 16))
    ).astype(np.float32)
    held = dict(enumerate(near(800)))
    retriever = Retriever(LTIConfig(num_nodes=20))
    retriever.build_index(np.array(list(held.values())), reserve=80)
    for number in range(20):
        gone = rng.choice(list(held), 80, replace=False)
        retriever.remove(gone)
        held = {i: v for i, v in held.items() if i not in gone}
        centres = centres + 0.35 * rng.normal(size=centres.shape)
        new = dict(zip(range(1000 * (number + 1), 1000 * (number + 1) + 80), near(80)))
        retriever.add(np.array(list(new.values())), list(new))
        held |= new
    return retriever, held, near(200)


@pytest.mark.long
def test_after_churn_a_rebuild_finds_what_one_built_afresh_finds():
    retriever, held, users = churned()
    ids, items = np.array(list(held)), np.array(list(held.values()))
    exact = ids[np.argsort(-(users @ items.T), axis=1)[:, :10]]
    afresh = Retriever(LTIConfig(num_nodes=20))
    afresh.build_index(items, item_ids=ids)

    def kept(one):
        return recall(one.search(users, 10, budget=80).ids, exact)

    assert retriever.needs_rebuild()
    stale = kept(retriever)
    stats = retriever.rebuild(seed=0)
    assert stats == retriever.stats() and stats["items"] == 800
    assert kept(retriever) >= kept(afresh) - 0.02
    assert kept(retriever) > stale + 0.02
    assert retriever.ids.size == 880
    assert not retriever.needs_rebuild()


def test_a_rebuild_takes_the_nodes_of_a_later_fit_once():
    items = items_of(0)
    users, liked = users_near(1, items, users=40, noise=0.5)
    retriever = Retriever(LTIConfig(num_nodes=6, kmeans_iterations=4, total_steps=5))
    retriever.build_index(items)
    by_k_means = np.asarray(retriever.index.nodes)
    retriever.fit_nodes(users, items, positives=liked, tx=optax.sgd(0.1), seed=1)
    retriever.rebuild()
    np.testing.assert_array_equal(retriever.index.nodes, retriever.nodes)
    assert (np.asarray(retriever.nodes) != by_k_means).any()
    retriever.rebuild(reserve=5)
    np.testing.assert_array_equal(retriever.index.nodes, by_k_means)
    assert retriever.ids.size == 65


def test_a_model_and_its_items_outlast_a_rebuild(tmp_path):
    retriever, truth = modelled()
    retriever.remove([104, 105])
    truth = {i: x for i, x in truth.items() if i not in (104, 105)}
    retriever.rebuild(seed=2)
    check_answers(retriever, truth)
    retriever.save(tmp_path / "saved")
    check_answers(Retriever.load(tmp_path / "saved"), truth)


def test_what_cannot_be_rebuilt_says_so():
    with pytest.raises(ValueError, match="index: expected one, from build_index or load"):
        Retriever(CONFIG).rebuild()
    retriever = built()
    with pytest.raises(ValueError, match="seed: expected an integer"):
        retriever.rebuild(seed=-1)
    retriever.remove(np.arange(60))
    with pytest.raises(ValueError, match="index: expected items to rebuild it from, found none"):
        retriever.rebuild()


def test_searches_go_on_while_the_index_is_rebuilt(monkeypatch):
    retriever, users = built(), items_of(0)[:3]
    before = retriever.search(users, 3, budget=60)
    begun, go_on, learn = threading.Event(), threading.Event(), building.build

    def slow_build(*given, **options):
        begun.set()
        assert go_on.wait(60)
        return learn(*given, **options)

    monkeypatch.setattr(building, "build", slow_build)
    rebuild = threading.Thread(target=retriever.rebuild)
    adding = threading.Thread(target=retriever.add, args=(9 * users[:1], [777]))
    rebuild.start()
    assert begun.wait(60)
    adding.start()  # waits for the rebuild, and is not lost
    during = retriever.search(users, 3, budget=60)
    np.testing.assert_array_equal(during.ids, before.ids)
    go_on.set()
    rebuild.join(60), adding.join(60)
    assert retriever.search(users[:1], 1, budget=61).ids.tolist() == [[777]]
