"""The whole path on small drawn data, and what a user can do wrong."""

import csv
import dataclasses
import gzip
import json
import re

import jax
import numpy as np
import pytest

from experiments import end_to_end
from experiments.data.datasets import read
from experiments.data.download import ARCHIVES
from experiments.harness.run_folder import SUMMARY_KEYS
from experiments.retrieval import towers as retrieval
from experiments.studies.handover import example_lines, name_of
from experiments.tasks.neighbours import FOLDS, latest_first
from experiments.tasks.next_item import pose
from nxtpost_jax import NxtPost, NxtPostConfig, Recommender, Sequences, train_batches

SMALL = (
    *("--devices", "1", "--epochs", "2", "--evaluate-every", "1", "--max-len", "8"),
    *("--d-model", "16", "--content-dim", "8", "--batch-size", "16", "--num-negatives", "16"),
    *("--nodes", "4", "--index-steps", "20", "--monn", "S", "--monn-steps", "10"),
    *("--digits-epochs", "1", "--digits-seeds", "1"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Users who walk around a ring of items: the next item is known."""
    folder = tmp_path_factory.mktemp("ring")
    rng = np.random.default_rng(0)
    lines = ["user,item,timestamp"]
    for user in range(60):
        start = rng.integers(40)
        lines += [f"u{user},i{(start + t) % 40:02d},{1000 + t}" for t in range(10)]
    lines += ["once,i00,1000"]  # a user with one event is legal and is not asked about
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n")
    items = ["id,text"] + [f"i{i:02d},item number {i} near {i + 1}" for i in range(40)]
    (folder / "items.csv").write_text("\n".join(items) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    end_to_end.main(["--data", str(folder), "--out", str(out), *SMALL])
    return out


@pytest.mark.long
def test_summary_has_the_promised_keys_and_no_path(run, folder):
    text = (run / "summary.json").read_text()
    summary = json.loads(text)
    assert tuple(summary) == SUMMARY_KEYS
    for name in ("hr@10", "ndcg@10", "adamw/ndcg@10", "content_only/ndcg@10", "items"):
        assert isinstance(summary["metrics"][name], int | float), name
    for figure in ("hr@10", "items_scored", "recall@10", "flops", "p99_ms"):
        for name in (f"index/{figure}", f"monn/index/{figure}"):
            assert isinstance(summary["metrics"][name], int | float), name
    for name in ("monn_over_dot/ndcg@10", "monn/exact/ndcg@10"):
        assert isinstance(summary["metrics"][name], int | float), name
    for name in ("popularity/ndcg@10", "markov/ndcg@10", "content_knn/ndcg@10"):
        assert isinstance(summary["baselines"][name], float), name
    assert str(folder.parent) not in text
    assert summary["config"]["data"]["sha256"] == summary["protocol"]["data_hash"]


@pytest.mark.long
def test_report_shows_baselines_protocol_and_plots(run):
    text = (run / "report.md").read_text()
    for words in (
        "*skip-3 Markov*",
        "NxtPost, Shampoo",
        "dot, HSNN index",
        "MoNN S, HSNN index",
        "leave one out",
        "report.png",
    ):
        assert words in text, words
    assert (run / "report.png").stat().st_size > 10_000


@pytest.mark.long
def test_figures_are_consistent(run):
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    assert metrics["items"] == 40
    assert 0 < metrics["index/items_scored"] <= metrics["budget"] <= 40
    assert metrics["exact/items_scored"] == 40
    assert metrics["exact/recall@10"] == metrics["monn/exact/recall@10"] == 1
    assert metrics["monn/exact/flops"] > metrics["exact/flops"] == 40 * 2 * 16
    assert metrics["monn/index/flops"] < metrics["monn/exact/flops"]
    # Exact search returns what the ranking of all items counts, ties apart.
    assert metrics["exact/hr@10"] == pytest.approx(metrics["hr@10"], abs=0.05)


@pytest.mark.long
def test_the_recommender_left_behind_answers_as_the_run_did(run, folder):
    summary = json.loads((run / "summary.json").read_text())
    problem = pose(read(folder), content_dim=8, seed=0)
    queries = problem.split.test
    recommender = Recommender.load(run / "recommender")
    answer = recommender.recommend(queries.histories, 10, exclude_seen=problem.protocol.seen_filter)
    found = (answer.ids == queries.targets[:, None]).any(axis=1).mean()
    # The index's exact search takes the same items, ties to the lower id.
    assert found == pytest.approx(summary["metrics"]["exact/hr@10"], abs=1e-9)
    rows = list(csv.reader((run / "items.csv").read_text(encoding="utf-8").splitlines()))
    assert rows[0] == ["item", "id", "text"] and rows[4][:2] == ["3", "i03"]


def test_examples_are_named_and_fit_on_80_columns(folder):
    interactions = read(folder)
    problem = pose(interactions, content_dim=8, seed=0)
    config = NxtPostConfig(max_len=8, d_model=8, num_layers=1)
    recommender = Recommender(config, problem.content, num_items=problem.num_items)
    batch = next(train_batches(problem.split.train, max_len=8, batch_size=4, seed=0, epoch=0))
    params = recommender.model.init(jax.random.key(0), batch, problem.content)["params"]
    recommender.adopt(params)
    lines = list(example_lines(recommender, problem, interactions, seed=0))
    assert len(lines) == 3 * (1 + 5) and max(map(len, lines)) <= 80
    assert lines[0].startswith("after   item number ")
    assert all(re.match(r" {8}-?\d\.\d\d  item number \d+ near \d+$", x) for x in lines[1:6])


def test_an_item_is_called_by_its_text_unless_that_repeats_its_id(folder):
    interactions = read(folder)
    assert name_of(interactions, 3) == "item number 3 near 4"
    texts = ["i03 again", "", *interactions.item_texts[2:]]
    ids = np.array(["i.03", *interactions.item_ids[1:]])
    renamed = dataclasses.replace(interactions, item_texts=texts, item_ids=ids)
    assert [name_of(renamed, 0), name_of(renamed, 1)] == ["i.03", "i01"]


@pytest.mark.long
def test_a_finished_run_resumes_to_the_same_figures(run):
    before = json.loads((run / "summary.json").read_text())["metrics"]
    end_to_end.main(["--resume", str(run)])
    after = json.loads((run / "summary.json").read_text())["metrics"]
    for name in ("hr@10", "ndcg@10", "adamw/ndcg@10", "index/hr@10", "index/items_scored"):
        assert after[name] == before[name], name


def test_a_training_position_knows_the_items_before_it_and_its_users_fold(folder):
    problem = pose(read(folder), content_dim=8)
    train = problem.split.train
    model = NxtPost(NxtPostConfig(d_model=16, max_len=4), num_items=problem.num_items)
    first = next(train_batches(train, max_len=4, batch_size=8, seed=0, epoch=0))
    params = model.init(jax.random.key(0), first, problem.content)["params"]
    towers = retrieval.encode_towers(problem, model, params=params)
    pairs = retrieval.training_pairs(problem, towers, most=10_000, seed=0)
    # A user walks from 8 training events to 7 next ones; windows of 4 may cover one twice.
    assert pairs.users.shape == (len(pairs.items), 16)
    assert len(pairs.items) >= 60 * 7
    known = (pairs.met >= 0).sum(axis=1)
    assert set(known.tolist()) == set(range(1, 8))
    for item, met, count in zip(pairs.items, pairs.met, known, strict=True):
        np.testing.assert_array_equal(met[:count], (item - 1 - np.arange(count)) % 40)
    for fold in range(FOLDS):
        last = (pairs.fold == fold) & (known == 7)
        assert last.sum() >= len(range(fold, 60, FOLDS))


def test_what_queries_met_is_latest_first():
    histories = Sequences.from_events([0, 0, 0, 2], [5, 3, 5, 1], num_users=3)
    offsets = histories.offsets
    met = latest_first(histories.items, offsets[:-1], ends=offsets[1:], length=retrieval.MET)
    assert met.shape == (3, retrieval.MET)
    assert met[:, :4].tolist() == [[5, 3, 5, -1], [-1, -1, -1, -1], [1, -1, -1, -1]]
    assert (met[:, 4:] == -1).all()


def _refused(capsys, arguments):
    """Run with bad input; return the one line it ends with."""
    with pytest.raises(SystemExit) as error:
        end_to_end.main([str(a) for a in arguments])
    assert error.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


HEADER = b"user,item,timestamp\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("interactions.csv", b"", "interactions.csv.* found .*empty"),
        ("interactions.csv", HEADER + b"a,b,1\na,b\n", "interactions.csv, line 3: expected"),
        ("interactions.csv", HEADER + b"a,\xff,1\n", "interactions.csv, line 2: expected.*UTF-8"),
        ("interactions.csv.gz", gzip.compress(HEADER * 99)[:40], "interactions.csv.gz.*gzip"),
        ("photo.jpg", b"\xff\xd8\xff", "expected.*found"),
        ("interactions.csv", HEADER + b"a,b,1\n", "at least 3 events"),
    ],
    ids=["empty", "malformed", "not UTF-8", "truncated gzip", "unknown", "one event"],
)
def test_bad_data_is_one_line_and_exit_code_2(tmp_path, capsys, name, content, message):
    data = tmp_path / "data"
    data.mkdir()
    (data / name).write_bytes(content)
    line = _refused(capsys, ["--data", data, "--out", tmp_path / "out"])
    assert re.search(message, line), line
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_is_one_line_and_exit_code_2(tmp_path, capsys):
    line = _refused(capsys, ["--data", tmp_path / "nowhere", "--out", tmp_path / "out"])
    assert "nowhere" in line
    assert not (tmp_path / "out").exists()


def test_a_download_without_a_connection_leaves_nothing(tmp_path, monkeypatch, capsys):
    closed = dataclasses.replace(ARCHIVES["ml-1m"], url="http://127.0.0.1:9/ml-1m.zip")
    monkeypatch.setitem(ARCHIVES, "ml-1m", closed)
    monkeypatch.chdir(tmp_path)
    line = _refused(capsys, ["--download", "ml-1m", "--out", tmp_path / "out"])
    assert "127.0.0.1:9/ml-1m.zip" in line
    assert not list(tmp_path.rglob("*.dat"))
    assert not (tmp_path / "out").exists()


def test_an_out_that_cannot_be_written_is_refused_first(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    line = _refused(capsys, ["--out", tmp_path / "file"])
    assert "--out" in line
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.long
def test_a_run_of_another_config_is_not_resumed(run, capsys):
    before = (run / "summary.json").read_bytes()
    line = _refused(capsys, ["--resume", run, "--d-model", "32"])
    assert "d_model is 16 there and 32 here" in line
    assert (run / "summary.json").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--nodes", "0"], "--nodes: expected at least 1, found 0"),
        (["--epochs", "0"], "--epochs: expected at least 1, found 0"),
        (["--batch-size", "-3"], "--batch-size: expected at least 1, found -3"),
        (["--shampoo-rate", "0"], "--shampoo-rate: expected a number above 0, found 0.0"),
        (["--dropout", "1"], "--dropout: expected a rate in [0, 1), found 1.0"),
        (["--preset", "huge"], "--preset: expected one of default, smoke, found huge"),
        (["--data", "x", "--download", "ml-1m"], "--data and --download: expected one of them"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, capsys, flags, message):
    line = _refused(capsys, ["--out", tmp_path / "out", *flags])
    assert message in line
    assert not (tmp_path / "out").exists()


def test_help_trains_nothing(capsys):
    with pytest.raises(SystemExit) as error:
        end_to_end.main(["--help"])
    assert error.value.code == 0
    assert "--data" in capsys.readouterr().out
