"""The NxtPost command: options, tables, and one small run through all of it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nxtpost_jax
from experiments import nxtpost
from experiments.data.drawn import drawn_shop
from experiments.harness.errors import InputError
from experiments.loop.training import TrainResult
from experiments.studies.optimizer_race import training_table
from experiments.tasks import next_item
from experiments.tasks.nxtpost_training import NxtPostOptions, make_optimizer
from nxtpost_jax import NxtPost, NxtPostConfig
from nxtpost_jax.evaluation.ranking import metrics_of_ranks


def write_cycles(folder, *, users=60, items=12, header="user,item,timestamp"):
    """Each user walks the items in a circle from a start of its own."""
    rows = [header]
    for user in range(users):
        rows += [f"u{user},i{(user + t) % items},{100 * t}" for t in range(8)]
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n")


def test_command_learns_an_order_and_reports_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_cycles(tmp_path, header="who,what,timestamp")
    out = tmp_path / "run"
    arguments = ["--data", str(tmp_path), "--preset", "smoke", "--devices", "1", "--out", str(out)]
    arguments += ["--columns", "user=who,item=what"]
    rates = ["--epochs", "30", "--evaluate-every", "10", "--adamw-rate", "0.01", "--seed", "3"]
    nxtpost.main([*arguments, *rates, "--optimizer", "adamw"])
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["baselines"]) >= {"popularity/ndcg@10", "markov/ndcg@10"}
    # With 12 items, of which 7 are seen, a random order would have .66 (5 candidates).
    assert summary["metrics"]["adamw/3/ndcg@10"] > 0.9
    assert summary["seeds"] == [3]
    report = (out / "report.md").read_text()
    assert "NxtPost, AdamW" in report
    assert "skip-3 Markov" in report


@pytest.mark.long
def test_every_layout_gives_the_losses_of_whole_parameters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_cycles(tmp_path, header="user,item,timestamp")
    arguments = ["--data", str(tmp_path), "--preset", "smoke", "--devices", "4", "--epochs", "10"]
    found = {}
    for layout in ("replicated", "fsdp", "rows"):
        out = tmp_path / layout
        nxtpost.main([*arguments, "--layout", layout, "--out", str(out)])
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        found[layout] = [line["loss"] for line in lines if "loss" in line]
    for layout in ("fsdp", "rows"):
        assert found[layout] == pytest.approx(found["replicated"], rel=1e-4)


def test_columns_are_of_data():
    with pytest.raises(InputError, match="--columns: expected --data beside it, found none"):
        NxtPostOptions(columns="user=who")


def test_epochs_are_selected_on_validation():
    """Without a test split nothing that selects may fail, and the figures are validation's."""
    problem = next_item.pose(drawn_shop(), content_dim=0)
    asked = problem.split.validation
    assert not np.array_equal(asked.targets, problem.split.test.targets)
    problem = dataclasses.replace(problem, split=dataclasses.replace(problem.split, test=None))
    model = NxtPost(NxtPostConfig.sasrec(d_model=8, num_layers=1, max_len=8), problem.num_items)
    batch = nxtpost_jax.pad_histories(asked.histories, 8)
    params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
    figures = next_item.validation_metrics(problem, model, params)
    expected = next_item.score(problem, model, params=params, queries=asked, bootstrap=0)
    assert figures["ndcg@10"] == expected["ndcg@10"] > 0


def _result(values):
    history = [
        {"epoch": e, "step": e, "seconds": 2.0 * e, "ndcg@10": v} for e, v in enumerate(values)
    ]
    return TrainResult({}, {}, (), history, len(values), 9.0, 1.0, int(np.argmax(values)))


def test_training_table_counts_the_seeds_that_reach_the_target():
    results = {
        "adamw": [_result([0.1, 0.3]), _result([0.2, 0.3])],
        "shampoo": [_result([0.3, 0.4]), _result([0.1, 0.2])],
    }
    table = training_table(results)
    (row,) = table.rows
    assert row[:5] == ["NxtPost, Shampoo", pytest.approx(0.3), 0.0, 0.0, "1 of 2"]


def test_ranking_table_pairs_the_median_seed_with_the_best_baseline():
    ranks = {"good": [1, 1, 2, 1], "bad": [1, 3, 9, 20], "base": [1, 2, 9, 30]}
    good, bad, base = (metrics_of_ranks(np.array(r), bootstrap=20) for r in ranks.values())
    table = nxtpost.ranking_table({"markov": base}, {"adamw": [bad, good, bad]})
    assert table.columns[-1] == "above markov"
    assert table.rows[0][1] == pytest.approx(bad["hr@10"])
    assert table.rows[0][-1].startswith(f"{bad['ndcg@10'] - base['ndcg@10']:+.4f}")


@pytest.mark.parametrize("name", ["adamw", "shampoo"])
def test_a_cosine_schedule_ends_at_rest(name):
    def size_of_step(schedule, at):
        options = NxtPostOptions(epochs=3, schedule=schedule, adamw_rate=0.1)
        tx = make_optimizer(name, options, steps_per_epoch=4)
        params = {"w": jnp.ones((2, 2))}
        state, update, sizes = jax.jit(tx.init)(params), jax.jit(tx.update), []
        for _ in range(13):
            updates, state = update({"w": jnp.eye(2)}, state, params)
            sizes.append(float(jnp.abs(updates["w"]).max()))
        return sizes[at]

    assert size_of_step("cosine", 12) == pytest.approx(0, abs=1e-7)
    assert size_of_step("constant", 12) > 1e-4
    assert size_of_step("cosine", 4) == pytest.approx(size_of_step("constant", 4), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "--seeds: expected at least 1, found 0"),
        ({"adamw_rate": 0.0}, "--adamw-rate: expected a number above 0, found 0.0"),
        ({"content_dim": -1}, "--content-dim: expected at least 0, found -1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        NxtPostOptions(**options)
