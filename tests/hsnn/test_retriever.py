import jax
import numpy as np
import optax
import pytest

from hsnn_jax import LTIConfig, Retriever
from hsnn_jax.scorers import dot, init_mol, mol
from tests.hsnn.planted import clusters, users_near

CONFIG = LTIConfig(num_nodes=8, total_steps=20, kmeans_iterations=5, num_negatives=32)
IDS = 1000 + 7 * np.arange(120)[::-1]


def data():
    items, _ = clusters(0, items=120, width=8, num_clusters=8, noise=0.5)
    users, liked = users_near(1, items, users=40, noise=0.5)
    return items, users, liked


def built(**options):
    items, _, _ = data()
    retriever = Retriever(CONFIG, **options)
    retriever.build_index(items, item_ids=IDS, key=jax.random.key(0))
    return retriever


def test_fit_build_search_in_the_callers_ids():
    items, users, liked = data()
    retriever = Retriever(CONFIG)
    retriever.fit(users, items, liked, optax.adam(1e-3), key=jax.random.key(0))
    stats = retriever.build_index(items, item_ids=IDS)
    assert stats == retriever.stats()
    assert stats["items"] == 120
    answer = retriever.search(users, 5)
    expected = IDS[np.argsort(-(users @ items.T), axis=1)[:, :5]]
    np.testing.assert_array_equal(answer.ids, expected)
    assert (answer.items_scored == 120).all()


def test_exclude_and_filter():
    _, users, _ = data()
    retriever = built()
    first = retriever.search(users, 3).ids
    unknown = np.concatenate([first, np.full((40, 1), 5), np.full((40, 1), -1)], axis=1)
    second = retriever.search(users, 3, exclude=unknown).ids
    assert not (first[:, :, None] == second[:, None, :]).any()
    allowed = np.arange(120) % 2 == 0
    found = retriever.search(users, 3, filter=allowed).ids
    assert np.isin(found, IDS[allowed]).all()
    empty = retriever.search(users, 3, filter=np.zeros(120, bool))
    assert (empty.ids == -1).all()


@pytest.mark.parametrize("scorer", [dot, mol])
def test_save_and_load_give_the_same_answers(tmp_path, scorer):
    _, users, _ = data()
    params = init_mol(jax.random.key(1), 8, 8) if scorer is mol else None
    retriever = built(scorer=scorer, params=params, max_beam=4)
    path = tmp_path / "retriever.npz"
    retriever.save(path)
    loaded = Retriever.load(path, scorer=scorer)
    for a, b in zip(retriever.search(users, 4, budget=50), loaded.search(users, 4, budget=50)):
        np.testing.assert_array_equal(a, b)
    assert loaded.config == CONFIG
    assert loaded.stats() == retriever.stats()
    assert [file.name for file in tmp_path.iterdir()] == ["retriever.npz"]


def test_load_refuses_other_scorers_and_files(tmp_path):
    path = tmp_path / "retriever.npz"
    built().save(path)
    with pytest.raises(ValueError, match="saved with scorer 'dot', got 'mol'"):
        Retriever.load(path, scorer=mol)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"not a retriever's .npz file"):
        Retriever.load(path)
    np.savez(path, header=np.array('{"format": "other"}'))
    with pytest.raises(ValueError, match=r"must have format 'hsnn_jax.retriever/2', got 'other'"):
        Retriever.load(path)


def test_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "retriever.npz"
    built().save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="nested dicts with plain string keys"):
        built(params={"a/b": np.ones(2)}).save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(item_ids=np.r_[IDS[:-1], IDS[0]]), f"distinct, got {IDS[0]} twice"),
        (dict(item_ids=IDS[:5]), r"item_ids must have shape \(120,\), got shape \(5,\)"),
        (dict(item_ids=IDS - 2000), "item_ids must be >= 0"),
        (dict(key=None), "needs key"),
    ],
)
def test_bad_build(options, message):
    items, _, _ = data()
    with pytest.raises(ValueError, match=message):
        Retriever(CONFIG).build_index(items, **dict(key=jax.random.key(0)) | options)


def test_nan_vectors_are_refused_by_row():
    items, users, _ = data()
    items[17, 2] = np.nan
    with pytest.raises(ValueError, match="item_vectors must be finite, got NaN or inf in row 17"):
        Retriever(CONFIG).build_index(items, key=jax.random.key(0))
    users[3] = np.inf
    with pytest.raises(ValueError, match=r"users must be finite.*row 3"):
        built().search(users, 2)


def test_bad_search():
    _, users, _ = data()
    retriever = built()
    with pytest.raises(ValueError, match=r"users must have width 8, got shape \(40, 7\)"):
        retriever.search(users[:, :7], 2)
    with pytest.raises(ValueError, match=r"k must be in \[1, 120\]"):
        retriever.search(users, 121)
    with pytest.raises(ValueError, match=r"at most 4 \(items that filter allows\), got 5"):
        retriever.search(users, 5, filter=np.arange(120) < 4)
    with pytest.raises(ValueError, match=r"filter must have shape \[120\]"):
        retriever.search(users, 5, filter=np.ones(10, bool))
    with pytest.raises(ValueError, match="at least one node's capacity, 30 items, got 29"):
        retriever.search(users, 5, budget=29)
    with pytest.raises(ValueError, match="there is no index"):
        Retriever(CONFIG).search(users, 2)


def test_residual_levels_make_one_index_of_sums(tmp_path):
    items, users, _ = data()
    retriever = Retriever(LTIConfig(num_nodes=(2, 3), kmeans_iterations=5))
    assert retriever.build_index(items, key=jax.random.key(0))["nodes"] == 6
    path = tmp_path / "retriever.npz"
    retriever.save(path)
    loaded = Retriever.load(path)
    assert loaded.config == retriever.config
    np.testing.assert_array_equal(loaded.search(users, 3).ids, retriever.search(users, 3).ids)
