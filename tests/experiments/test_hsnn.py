"""The other tasks of experiments.hsnn: features, drawn data, and each command on small data."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import hsnn
from experiments.data.drawn import drawn_ratings, drawn_shop, planted_tree
from experiments.harness.errors import InputError
from experiments.retrieval.linear_towers import Vectors, adapt
from experiments.retrieval.residual_monn import softmax_of
from experiments.studies.collapse import PlantedConfig, learn, measure_nodes
from experiments.studies.drift import DriftConfig, make_timeline
from experiments.studies.interests import InterestsConfig, distinct, draw_users
from experiments.studies.rated_scorer import Scorer, ScorersConfig, model_config
from experiments.studies.scale import exponent, least_budget
from experiments.tasks.neighbours import (
    FOLDS,
    NEIGHBOURS,
    SMOOTHING,
    WINDOW,
    companion_lists,
    follower_lists,
)
from experiments.tasks.rated_events import make_examples, user_side
from hsnn_jax.nodes.lti import LTIConfig


@pytest.fixture(scope="module")
def examples():
    return make_examples(drawn_ratings())


def test_histories_are_what_precedes_an_event(examples):
    rows = np.array([0, 5, 47, 119])
    batch = examples.histories(rows)
    for k, row in enumerate(rows):
        start = np.searchsorted(examples.users, examples.users[row])
        items, labels = examples.items[start:row], examples.labels[start:row]
        for name, own in (("liked", items[labels == 1]), ("disliked", items[labels == 0])):
            got = batch[name][k]
            np.testing.assert_array_equal(got[got >= 0], own[::-1][: got.size])
        assert set(examples.seen(rows)[k]) - {-1} == set(items.tolist())
        assert batch["last"][k] == (items[-1] if len(items) else -1)


def test_the_crosses_count_genres_of_liked_items_only(examples):
    batch = examples.histories(np.array([25]))
    genres = jnp.asarray(examples.genres)
    features, tables = user_side(batch, genres, len(examples.genre_names), examples.followers)
    liked = batch["liked"][0]
    expected = np.bincount(
        examples.genres[liked[liked >= 0]].ravel(), minlength=len(examples.genre_names)
    )
    np.testing.assert_array_equal(tables["genre"].counts[0], expected)
    np.testing.assert_allclose(features["taste"][0].sum(), 1, rtol=1e-6)


def follower_scores(examples, *, without, window=WINDOW):
    """Count(j, then i within the window) / sqrt(count(i) + 10) over liked training events."""
    chosen = (examples.part == 0) & (examples.labels == 1)
    users, items = examples.users[chosen], examples.items[chosen]
    counts = np.zeros((examples.num_items,) * 2)
    for user in np.unique(users[users % FOLDS != without]):
        own = items[users == user]
        for place, item in enumerate(own):
            for later in own[place + 1 : place + 1 + window]:
                counts[item, later] += item != later
    return counts / np.sqrt(np.bincount(items, minlength=examples.num_items) + SMOOTHING)


def assert_best(lists, scores):
    """Check that each item's list holds the items with its best positive scores, in order."""
    for own, found in zip(scores, lists, strict=True):
        known = found[found >= 0]
        assert len(set(known.tolist())) == len(known) == min(NEIGHBOURS, (own > 0).sum())
        np.testing.assert_allclose(own[known], np.sort(own)[::-1][: len(known)], rtol=1e-5)


@pytest.mark.parametrize("fold", [0, 3, -1])
def test_followers_are_those_counted_without_the_users_of_a_fold(examples, fold):
    assert_best(examples.followers[fold], follower_scores(examples, without=fold))
    chosen = examples.liked(0)
    events = examples.users[chosen], examples.items[chosen]
    near = follower_lists(*events, examples.num_items, window=2)
    assert_best(near[fold], follower_scores(examples, without=fold, window=2))


@pytest.mark.parametrize("fold", [1, -1])
def test_companions_are_items_of_the_same_users(fold):
    taken = np.random.default_rng(0).random((30, 70)) < 0.15
    users, items = np.nonzero(taken)
    lists = companion_lists(users, items, 30, 70)
    assert lists.shape == (FOLDS + 1, 70, NEIGHBOURS)
    if fold >= 0:
        taken[fold::FOLDS] = False
    else:
        np.testing.assert_array_equal(lists[-1:], companion_lists(users, items, 30, 70, folds=0))
    degrees = [np.maximum(taken.sum(axis=axis, keepdims=True), 1) for axis in (0, 1)]
    weights = taken / np.sqrt(degrees[0] * degrees[1])
    scores = weights.T @ weights
    np.fill_diagonal(scores, 0)
    assert_best(lists[fold], scores)


def test_a_training_event_reads_followers_counted_without_its_user(examples):
    training, later = examples.rows(0)[30], examples.rows(2)[10]
    batch = examples.histories(np.array([training, later]))
    assert batch["fold"].tolist() == [examples.users[training] % FOLDS, -1]
    genres = jnp.asarray(examples.genres)
    _, tables = user_side(batch, genres, len(examples.genre_names), jnp.asarray(examples.followers))
    for k, fold in enumerate(batch["fold"]):
        lists = examples.followers[fold, batch["liked"][k][batch["liked"][k] >= 0]]
        expected = np.bincount(lists[lists >= 0], minlength=examples.num_items)
        np.testing.assert_array_equal(tables["follows"].counts[k], expected)


def test_negatives_are_drawn_as_often_as_the_loss_is_told(examples):
    scorer = Scorer(model_config("XS", examples), examples)
    config = ScorersConfig(negatives=200_000, popular=0.75)
    ids, log_expected = scorer.negatives(jax.random.key(0), config)
    odds = np.exp(log_expected) / np.exp(log_expected).sum()
    np.testing.assert_allclose(odds.sum(), 1, rtol=1e-5)
    drawn = np.bincount(ids, minlength=examples.num_items) / len(ids)
    np.testing.assert_allclose(drawn, odds, atol=6 * np.sqrt(odds.max() / len(ids)))
    assert odds.max() > 1.5 * odds.min()


def test_the_corrected_softmax_is_at_rest_at_the_items_own_odds():
    rng = np.random.default_rng(0)
    odds = rng.dirichlet(np.ones(200))
    draws = 0.5 / 200 + 0.5 * rng.dirichlet(np.full(200, 0.3))
    own, others = (jnp.asarray(rng.choice(200, 4096, p=p)) for p in (odds, draws))

    def slope(log_expected):
        def loss(logits):
            def scorer(logits, users, items):
                return jnp.broadcast_to(logits[items], (users.shape[0], items.shape[-1]))

            users = jnp.zeros((4096, 1))
            return softmax_of(
                scorer, logits, users, own, others, own, others, log_expected=log_expected
            )

        gradient = jax.grad(loss)(jnp.log(jnp.asarray(odds, jnp.float32)))
        return float(jnp.linalg.norm(gradient))

    # What is left is the draws' own noise, about sqrt(2 / 4096) = 0.022.
    assert slope(jnp.log(jnp.asarray(draws, jnp.float32))) < 0.03 < 0.08 < slope(None)


def test_parts_follow_time_and_years_and_genres_are_read(examples):
    for user in (0, 7):
        parts = examples.part[examples.users == user]
        assert (np.diff(parts) >= 0).all()
        assert np.bincount(parts).tolist() == [24, 3, 3]
    assert examples.genre_names == ("Comedy", "Drama", "Horror", "War", "Western")
    assert examples.item_dense[:, 0].min() == -1
    assert (examples.labels[examples.next_liked(2)] == 1).all()


def test_data_without_ratings_is_refused():
    with pytest.raises(InputError, match="expected ratings in an order, found none"):
        make_examples(dataclasses.replace(drawn_ratings(), weights=None))


def test_users_of_a_day_are_asked_with_what_came_before():
    interactions, config = drawn_shop(), DriftConfig(days=4, content_dim=8)
    timeline, days = make_timeline(interactions, config, seed=0)
    vectors, _, truth, real = timeline.queries(days[0], 40, 50, 0)
    assert 0 < real <= 40
    np.testing.assert_allclose(np.linalg.norm(vectors[:real], axis=1), 1, atol=1e-5)
    of_day = set(timeline.items[timeline.days == days[0]].tolist())
    assert set(truth[truth >= 0].tolist()) <= of_day
    pairs = timeline.pairs_before(days[0], 10**6)
    early = timeline.days < days[0]
    assert len(pairs.positives) < early.sum()  # a first day has no history
    live = timeline.live_on(days[0] - 1, 90.0)
    assert not live[list(of_day - set(timeline.items[early].tolist()))].any()
    with pytest.raises(InputError, match="at least 60 days"):
        make_timeline(interactions, DriftConfig(), seed=0)


def test_joint_training_moves_nodes_and_towers_and_separate_has_no_nodes():
    drawn = planted_tree(items=100, users=200, width=8, leaves=4, branches=2, seed=0)
    vectors = Vectors(drawn.users, drawn.liked, drawn.items)
    config = LTIConfig(num_nodes=4, total_steps=5, warmup_steps=1, num_negatives=8)
    train = lambda **options: adapt(  # noqa: E731
        vectors, config, rate=1e-2, key=jax.random.key(0), batch_size=16, **options
    )
    joint, alone = train(joint=True), train(joint=False)
    start = train(joint=True, steps=0)
    assert set(alone.params) == {"user", "item"}
    for name in ("user", "item", "nodes"):
        assert np.abs(joint.params[name] - start.params[name]).max() > 1e-3, name
    assert np.abs(joint.params["item"] - alone.params["item"]).max() > 1e-4
    more = train(joint=True, steps=1, start=joint)
    assert 0 < np.abs(more.params["nodes"] - joint.params["nodes"]).max() < 0.1
    np.testing.assert_allclose(np.linalg.norm(joint.items(drawn.items), axis=1), 1, atol=1e-5)


def test_users_like_what_is_nearest_to_any_of_their_interests():
    config = InterestsConfig(width=8, interests=2, likes=3)
    items = planted_tree(items=60, users=1, width=8, leaves=6, seed=0).items
    drawn = draw_users(items, 5, config, seed=[0])
    for interests, liked in zip(drawn.interests, drawn.liked):
        expected = np.argsort(-interests @ items.T, axis=1)[:, :3].ravel()
        np.testing.assert_array_equal(liked, expected)
    assert drawn.features([1, 2])["interest_1"].shape == (2, 8)
    np.testing.assert_array_equal(distinct(np.array([[3, 1, 3]])), [[1, 3, -1]])


def test_a_tree_is_found_with_remedies_and_lost_without():
    drawn = planted_tree(
        items=400, users=1000, width=16, leaves=8, branches=4, noise=0.4, skew=0.0, seed=0
    )
    config = PlantedConfig(leaves=8, steps=100, batch_size=64, dead_after=10, sgd_rate=0.3)
    truth = np.stack([drawn.items[drawn.leaf == leaf].mean(axis=0) for leaf in range(8)])
    assert measure_nodes(drawn, truth)["purity"] > 0.99
    off = {"balance_weight": 0.0, "dead_after": 0, "alpha_exponent": 0.0, "warmup_steps": 0}
    kept, lost = (
        measure_nodes(drawn, learn(drawn, config, optimizer="SGD", seed=0, **c).params["nodes"])
        for c in ({}, off)
    )
    assert kept["used_share"] > lost["used_share"]
    assert kept["purity"] > lost["purity"]


def test_the_least_budget_is_found_and_exponents_are_fitted():
    found = least_budget(lambda b: 1.0 if b >= 300 else 0.5, 10, 10_000)
    assert 300 <= found <= 312
    assert least_budget(lambda b: 1.0, 10, 100) == 10
    assert least_budget(lambda b: 0.0, 10, 100) == 100
    points = [dataclasses.make_dataclass("P", ["items", "flops"])(n, 7 * n**0.5) for n in (9, 90)]
    assert exponent(points) == pytest.approx(0.5)


def test_a_stopped_scale_run_keeps_what_it_has_measured(tmp_path):
    folder = tmp_path / "run"
    first = ["--task", "scale", "--preset", "smoke", "--baselines", "none"]
    hsnn.main([*first, "--out", str(folder)])
    whole = json.loads((folder / "summary.json").read_text())["metrics"]
    path = folder / "metrics.jsonl"
    kept, lost = path.read_text().splitlines(keepends=True)
    path.write_text(kept + lost[:10])  # as a kill leaves it, in the middle of a line
    hsnn.main([*first, "--resume", str(folder)])
    again = json.loads((folder / "summary.json").read_text())["metrics"]
    same = {name for name in whole if again[name] == whole[name]}
    # Times of the size that was measured before are the same; those of the other were taken anew.
    assert {name for name in whole if "/2000/" in name} <= same
    assert "HSNN/6000/flops" in same
    assert "HSNN/6000/build_seconds" not in same


RUNS = {
    "scorers": (
        ["--scorers.models", "XS", "--scorers.steps", "2"],
        "two tower, HSNN LTI/10%/recall",
    ),
    "learning": (
        ["--learning.variants", "separate k-means", "joint LTI", "--learning.steps", "2"],
        "joint LTI/truth_above",
    ),
    "scale": (["--scale.items", "2000"], "HSNN/2000/p99_ms"),
    "planted": (
        [*("--planted.optimizers", "SGD"), *("--planted.remedies", "all remedies")],
        "LTI, SGD, all remedies/0/purity",
    ),
    "interests": (
        ["--interests.models", "XS", "--interests.steps", "2"],
        "two tower, HSNN LTI/10%/recall",
    ),
    "drift": (["--drift.days", "2", "--drift.steps", "4"], "joint, trained on/recall"),
}


@pytest.mark.parametrize("task", RUNS)
def test_the_command_leaves_a_run_folder(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags, figure = RUNS[task]
    arguments = ["--task", task, "--preset", "smoke", "--devices", "1"]
    hsnn.main([*arguments, "--out", str(tmp_path / "run"), *flags])
    metrics = json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]
    assert np.isfinite(metrics[figure])
    assert "###" in (tmp_path / "run" / "report.md").read_text()
    assert (tmp_path / "run" / "report.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "hsnn TASK: expected one of frontier, scorers, .*, found None"),
        (["colour"], "hsnn TASK: expected one of frontier, scorers, .*, found colour"),
        (["scorers", "--scorers.models", "S"], "--scorers.models: expected XS, then some of"),
        (["scorers", "--scorers.popular", "1"], r"--scorers.popular: expected a share in \[0, 1\)"),
        (["learning", "--learning.variants", "x"], "--learning.variants: expected some of"),
        (["interests", "--interests.models", "S"], "--interests.models: expected XS, then some of"),
        (["planted", "--planted.remedies", "x"], "--planted.remedies: expected some of"),
        (["scale", "--scale.items", "5"], "--scale.items: expected sizes of at least 2000"),
        (["frontier", "--seeds", "0"], "--seeds: expected at least 1, found 0"),
        (["frontier", "--frontier.nodes", "0"], "--frontier.nodes: expected a number above 0, fou"),
        (["learning", "--graph.rate", "-1"], "--graph.rate: expected a number above 0, found -1.0"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as error:
        hsnn.main([*flags, "--out", str(tmp_path / "out")])
    assert error.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", hsnn.STUDIES)
def test_help_shows_the_options_of_the_task_only(task, capsys):
    with pytest.raises(SystemExit) as exit_:
        hsnn.main([task, "--help"])
    assert not exit_.value.code
    flags = re.findall(r"^[│\s]*(--[\w.-]+)", capsys.readouterr().out, re.MULTILINE)
    assert "--out" in flags and len(flags) <= 40
    groups = {flag[2:].split(".")[0] for flag in flags if "." in flag}
    own = {field.name for field in dataclasses.fields(hsnn.STUDIES[task].presets["default"])}
    assert groups <= own and (task in groups)


def test_a_task_is_named_in_three_ways(tmp_path):
    assert hsnn.choose_task(["scale", "--seed", "1"]) == ("scale", ["--seed", "1"])
    assert hsnn.choose_task(["--seed", "1", "--task", "scale"]) == ("scale", ["--seed", "1"])
    assert hsnn.choose_task(["--task=drift"]) == ("drift", [])
    saved = {"experiment": "hsnn drift", "arguments": [], "config": {}}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    argv = ["--resume", str(tmp_path)]
    assert hsnn.choose_task(argv) == ("drift", argv)


def test_help_alone_lists_the_tasks(capsys):
    hsnn.main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"\n{task}: " in shown for task in hsnn.STUDIES)
