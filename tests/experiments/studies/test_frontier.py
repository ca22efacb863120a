"""Task frontier of experiments.hsnn: pairs, propagation, searchers, the command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import hsnn
from experiments.data.datasets import read
from experiments.retrieval.residual_monn import CROSS, MoNNTraining, as_model, residual
from experiments.retrieval.searchers import (
    HSNN,
    Exact,
    FaissHNSW,
    FaissIVF,
    Model,
    Requests,
    Reranked,
    _first_new,
    dot_model,
)
from experiments.studies import frontier as hsnn_frontier
from experiments.studies.frontier import lists_of, train_monn
from experiments.tasks.graph_towers import (
    graph_of,
    make_graph,
    propagate,
    smoothed,
    spectral_start,
    spectral_towers,
    validation,
)
from experiments.tasks.neighbours import FOLDS
from experiments.tasks.pairs import Pairs, pose_pairs
from hsnn_jax.monn.network import init_monn
from hsnn_jax.monn.scorers import dot
from hsnn_jax.nodes.kmeans import kmeans


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A LightGCN split: users like items of their own kind out of six."""
    folder = tmp_path_factory.mktemp("kinds")
    rng = np.random.default_rng(0)
    parts = {"train": [], "test": []}
    for user in range(150):
        own = user % 6 * 30 + rng.permutation(30)[:14]
        for name, items in (("train", own[:9]), ("test", own[9:])):
            parts[name].append(" ".join(map(str, [user, *items])))
    for name, lines in parts.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_pairs_are_split_without_overlap_and_by_seed(folder):
    interactions = read(folder)
    problem = pose_pairs(interactions, seed=0)
    parts = [set(zip(*p)) for p in (problem.train, problem.validation, problem.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == interactions.n_events
    assert len(parts[2]) == interactions.published_test.sum()
    assert set(zip(*problem.known)) == parts[0] | parts[1]
    again, other = (pose_pairs(interactions, seed=s).validation for s in (0, 1))
    np.testing.assert_array_equal(again.items, problem.validation.items)
    assert not np.array_equal(other.items, problem.validation.items)
    rows = np.array([0, 7])
    for row, items in zip(rows, problem.train.padded(rows)):
        assert {i for u, i in parts[0] if u == row} == set(items[items >= 0].tolist())


def test_propagation_is_the_normalised_adjacency_and_so_is_its_gradient():
    rng = np.random.default_rng(0)
    dense = (rng.random((7, 5)) < 0.4).astype(np.float32)
    pairs = Pairs(*(x.astype(np.int32) for x in np.nonzero(dense)))
    graph = make_graph(pairs, num_users=7, num_items=5)
    degrees = np.outer(dense.sum(1), dense.sum(0))
    adjacency = dense / np.sqrt(np.maximum(degrees, 1))
    users, items = rng.normal(size=(7, 3)), rng.normal(size=(5, 3))
    got = propagate(graph, jnp.asarray(users, jnp.float32), jnp.asarray(items, jnp.float32))
    np.testing.assert_allclose(got[0], adjacency @ items, atol=1e-6)
    np.testing.assert_allclose(got[1], adjacency.T @ users, atol=1e-6)
    weights = rng.normal(size=(7, 3)).astype(np.float32)

    def value(items):
        return jnp.sum(weights * propagate(graph, jnp.zeros((7, 3)), items)[0])

    gradient = jax.grad(value)(jnp.asarray(items, jnp.float32))
    np.testing.assert_allclose(gradient, adjacency.T @ weights, atol=1e-6)


def test_the_spectral_start_tells_kinds_apart(folder):
    problem = pose_pairs(read(folder), seed=0)
    graph = make_graph(problem.train, num_users=150, num_items=problem.num_items)
    start = spectral_start(graph, 8, seed=0)
    users, items = smoothed(graph, jax.tree.map(jnp.asarray, start), 2)
    best = np.asarray(users @ items.T).argmax(axis=1)
    kind = np.asarray(read(folder).item_ids)[best] // 30
    assert (kind == np.arange(150) % 6).mean() > 0.95


def test_spectral_towers_are_the_low_pass_filter_and_find_what_is_held_out(folder):
    problem = pose_pairs(read(folder), seed=0)
    towers = spectral_towers(problem, 6, seed=0)
    users, items = towers.users(towers.train), towers.items(towers.train)
    dense = np.zeros((150, problem.num_items))
    dense[problem.train.users, problem.train.items] = 1
    by_item = np.sqrt(np.maximum(dense.sum(0), 1))
    weighted = dense / np.sqrt(dense.sum(1))[:, None] / by_item[None, :]
    _, _, vt = np.linalg.svd(weighted)
    expected = dense / by_item[None, :] @ vt[:6].T @ vt[:6] * by_item[None, :]
    got = users @ items.T
    scale = np.linalg.norm(expected, axis=1) / np.linalg.norm(got, axis=1)
    # The singular vectors are those of a randomised method.
    np.testing.assert_allclose(got * scale[:, None], expected, atol=0.01)
    np.testing.assert_allclose((items**2).sum(axis=1).mean(), 1, rtol=1e-5)
    rows, measure = validation(problem, seed=0)
    found = measure(users[rows], items)
    chance = measure(users[rows][::-1], np.random.default_rng(0).permutation(items))
    assert found > 0.9 > 0.3 > chance  # 20 items are asked for, and a user's kind has 30


def test_a_user_without_an_item_is_the_user_of_the_graph_without_it(folder):
    problem = pose_pairs(read(folder), seed=0)
    towers = spectral_towers(problem, 6, seed=0)
    edges = np.array([0, 7, len(problem.train.users) - 1])
    taken = Pairs(*(x[edges] for x in problem.train))
    for user, item, own in zip(*taken, towers.users_without(*taken)):
        kept = (problem.train.users != user) | (problem.train.items != item)
        graph = graph_of(problem, Pairs(*(x[kept] for x in problem.train)))
        # Only this user's row is compared: its other items have the same degrees in both.
        np.testing.assert_allclose(own, towers.users(graph)[user], atol=1e-5)


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(8, 6))
    items = (centres[np.arange(200) % 8] + 0.3 * rng.normal(size=(200, 6))).astype(np.float32)
    users = (items[:12] + 0.1 * rng.normal(size=(12, 6))).astype(np.float32)
    exclude = np.full((12, 3), -1, np.int32)
    exclude[:, 0] = np.arange(12)
    return items, Requests(users, exclude, exclude)


def _deep(params, users, items):
    """Not an inner product, though near to one."""
    plain = dot(None, users["vector"], items["vector"])
    return plain + 0.3 * jnp.sin(dot(None, users["vector"] * params[None, :], items["square"]))


def _deep_items(vectors):
    vectors = jnp.asarray(vectors)
    return {"vector": vectors, "square": vectors**2}


def _searchers(items):
    nodes = np.asarray(kmeans(jnp.asarray(items), 8, key=jax.random.key(0)))
    encode = (lambda asked: _deep_items(asked.users)), _deep_items
    deep = Model("deep", _deep, jnp.ones(6), _deep_items(items), *encode, 7.0)
    plain = dot_model(items)
    ivf = FaissIVF("ivf", items, 8)
    return [
        (plain, HSNN("hsnn", plain, items, nodes)),
        (plain, ivf),
        (plain, FaissHNSW("hnsw", items)),
        (deep, HSNN("deep", deep, items, nodes)),
        (deep, HSNN("deep, dot routes", deep, items, nodes, router=plain)),
        (deep, Reranked("re-ranked", ivf, deep, scanned_per_ranked=1)),
        (deep, Reranked("too", HSNN("", plain, items, nodes), deep, scanned_per_ranked=1)),
    ]


def test_searchers_with_a_full_budget_agree_with_their_exact_search(vectors):
    pytest.importorskip("faiss")
    items, requests = vectors
    for model, searcher in _searchers(items):
        exact = Exact("", model).search(requests, 5, 0)
        assert not (exact.ids == np.arange(12)[:, None]).any()
        searcher.build()
        found = searcher.search(requests, 5, 8 * 200 if "hnsw" in searcher.name else 200)
        agree = (np.sort(found.ids, axis=1) == np.sort(exact.ids, axis=1)).mean()
        assert agree == 1.0, searcher.name
        assert found.items_scored >= 100, searcher.name


def test_a_small_budget_costs_less_and_never_returns_what_is_excluded(vectors):
    pytest.importorskip("faiss")
    items, requests = vectors
    for _, searcher in _searchers(items):
        searcher.build()
        large, small = (searcher.search(requests, 5, budget) for budget in (200, 50))
        assert small.items_scored < large.items_scored
        assert small.flops < large.flops
        assert not (small.ids == np.arange(12)[:, None]).any(), searcher.name
        if searcher.name in ("ivf", "hsnn", "deep"):
            assert small.items_scored <= 60


def test_the_first_new_ids_are_kept_in_order():
    ids = np.tile([[5, 3, 2, -1], [0, 1, 2, 3]], (20, 1))
    exclude = np.tile([[3, -1], [0, 3]], (20, 1))
    expected = np.tile([[5, 2, -1], [1, 2, -1]], (20, 1))
    np.testing.assert_array_equal(_first_new(ids, exclude, 3, 6), expected)
    np.testing.assert_array_equal(_first_new(ids, exclude, 1, 6), expected[:, :1])


def test_costs_are_those_of_the_parts(vectors):
    pytest.importorskip("faiss")
    items, requests = vectors
    ivf = FaissIVF("ivf", items, 8)
    ivf.build()
    assert ivf.search(requests, 5, 200).items_scored == 200
    assert ivf.search(requests, 5, 200).flops == 2 * 6 * (200 + 8)
    exact = Exact("", dot_model(items)).search(requests, 5, 0)
    assert exact.flops == pytest.approx(2 * 6 * 200, rel=0.1)


def test_the_command_leaves_a_run_folder(folder, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    flags = [
        "--task",
        "frontier",
        "--baselines",
        "faiss",
        "--preset",
        "smoke",
        "--devices",
        "1",
        "--data",
        str(folder),
    ]
    hsnn.main([*flags, "--out", str(out), "--frontier.nodes", "24", "--monn.sizes", "S"])
    summary = json.loads((out / "summary.json").read_text())
    metrics = summary["metrics"]
    assert metrics["dot/recall@20"] > 0.5
    assert 0 < metrics["dot, IVF/items_scored=10%/recall"] <= 1
    assert any(name.startswith("MoNN S, HSNN LTI, dot routes/") for name in metrics)
    assert metrics["MoNN S/flops"] > metrics["dot/flops"]
    text = (out / "report.md").read_text()
    assert "At equal cost" in text
    # What is measured is read again, not measured again: the same figures, speeds included.
    for name in ("report.md", "summary.json"):
        (out / name).unlink()
    hsnn.main(["--resume", str(out)])
    assert json.loads((out / "summary.json").read_text())["metrics"] == metrics
    assert str(folder) not in text
    assert (out / "report.png").stat().st_size > 10_000


def test_a_cross_counts_the_neighbours_of_what_a_user_met(vectors):
    items, requests = vectors
    lists = np.full((3, 200, 2), -1, np.int32)
    lists[-1, :, 0] = np.arange(1, 201) % 200  # an item's one neighbour is the next
    lists[0, :, 0] = 7
    scorer = residual("S", 6, overarch="mlp", cross=True)
    params = {"scale": jnp.ones(()), "gain": jnp.ones(())}
    params["monn"] = init_monn(jax.random.key(0), scorer.config)
    model = as_model("", scorer, params, items, lists)
    found = Exact("", model).search(requests, 5, 0)
    users = model.encode_users(requests)
    counts = np.asarray(users["monn"]["counts"][CROSS].counts)
    np.testing.assert_array_equal(counts, np.eye(200)[(np.arange(12) + 1) % 200])
    # In training a user reads the lists of its fold.
    met, fold = jnp.asarray(requests.exclude), jnp.zeros(12, jnp.int32)
    assert set(np.nonzero(scorer.counts(jnp.asarray(lists), fold, met).counts)[1].tolist()) == {7}
    scores = scorer(params, users, jax.tree.map(lambda x: x[None], model.items))
    blind = as_model("", scorer, params, items, np.full_like(lists, -1)).encode_users(requests)
    moved = scores - scorer(params, blind, jax.tree.map(lambda x: x[None], model.items))
    counted = np.abs(moved) > 1e-4
    np.testing.assert_array_equal(counted, counts > 0)
    barred = np.asarray(scores.at[np.arange(12), np.arange(12)].set(-np.inf))
    np.testing.assert_array_equal(found.ids, np.argsort(-barred, axis=1)[:, :5])


def test_with_a_half_life_the_cross_knows_how_long_ago_an_item_was_met():
    lists = jnp.tile(((jnp.arange(20, dtype=jnp.int32) + 1) % 20)[None, :, None], (3, 1, 1))
    met = jnp.asarray([[4, 9, 4, -1], [-1, -1, -1, -1]])
    scorer = residual("S", 6, cross=True, half_life=2.0)
    assert scorer.config.recency
    table = scorer.counts(lists, jnp.asarray([-1, -1]), met)
    recency, counts = np.zeros((2, 20)), np.zeros((2, 20))
    recency[0, [5, 10]] = 1, 2**-0.5
    counts[0, [5, 10]] = 2, 1
    np.testing.assert_allclose(table.recency, recency, rtol=1e-6)
    np.testing.assert_array_equal(table.counts, counts)
    assert residual("S", 6, cross=True).counts(lists, jnp.asarray([-1, -1]), met).recency is None


def test_a_training_batch_hides_the_item_and_the_users_own_fold(folder, monkeypatch):
    problem = pose_pairs(read(folder), seed=0)
    towers, lists = spectral_towers(problem, 6, seed=0), lists_of(problem)
    asked = {}

    def kept(run, scorer, items, batches, config, *, lists, **options):
        asked.update(batches=list(batches(0, 2)), lists=lists)
        raise StopIteration

    monkeypatch.setattr(hsnn_frontier, "train_residual", kept)
    config = MoNNTraining(batch_size=32)
    with pytest.raises(StopIteration):
        train_monn(None, problem, towers, lists, config, "S", 0.4, seed=0, mesh=None)
    assert asked["lists"] is lists.train
    drawn = problem.train.batches(2, 32, seed=[0, 0, 1])
    for batch, pairs in zip(asked["batches"], drawn, strict=True):
        np.testing.assert_array_equal(batch["fold"], pairs["users"] % FOLDS)
        rows = zip(pairs["users"], pairs["items"], batch["met"], strict=True)
        for user, item, met in rows:
            own = set(problem.train.items[problem.train.users == user].tolist())
            assert set(met[met >= 0].tolist()) == own - {item}
