"""The benchmark of optimizer steps times what it says, and its floor is the arithmetic it names."""

import functools
import json
import sys

import jax
import numpy as np
import pytest

from experiments import step_time
from experiments.bench import nxtpost_time, processes, step_floor, step_worker, whole_step
from experiments.bench.parameter_sets import PARAMETER_SETS
from experiments.harness.errors import InputError


def test_sets_have_the_sizes_they_name():
    sets = {name: make() for name, make in PARAMETER_SETS.items()}
    count = {name: sum(int(np.prod(s)) for s in shapes.values()) for name, shapes in sets.items()}
    assert count["blocks12"] == 12 * 512 * 512 + 4 * 1024 * 256 + 12 * 512 + 4 * 1024
    assert count["resnet50"] == 25_557_032
    assert len(set(sets["odd200"].values())) == 200
    assert all(side % 2 for shape in sets["odd200"].values() for side in shape)
    assert len(sets["layers200"]) == 400


def test_floor_counts_true_blocks():
    shapes = {"a": (20, 12), "b": (9,)}
    # A vector has no factor.
    assert step_floor.block_kinds(shapes, block_size=16) == {
        ((16, 12), (0, 1)): 1,
        ((12, 4), (0, 1)): 1,
    }
    # Nor has the long side of a narrow matrix.
    narrow = step_floor.block_kinds({"lora": (20, 2)}, block_size=16)
    assert narrow == {((16, 2), (1,)): 1, ((4, 2), (1,)): 1}
    factors, directions = step_floor.products(shapes, block_size=16)()
    assert sorted(x.shape for pair in factors for x in pair) == [
        (1, 4, 4),
        (1, 12, 12),
        (1, 12, 12),
        (1, 16, 16),
    ]
    assert all(np.isfinite(x).all() for x in directions)
    decomposed = step_floor.eigendecompositions(shapes, block_size=16)()
    assert sum(q.shape[0] for q, _ in decomposed) == 4


def figures_of(folder, name):
    """Read the figures of a set from a run folder: by optimizer, then by column."""
    summary = json.loads((folder / "summary.json").read_text())
    found = {}
    for key, value in (summary["baselines"] | summary["metrics"]).items():
        own, optimizer, column = key.split("/")
        assert own == name
        found.setdefault(optimizer, {})[column] = value
    return found


@pytest.mark.long
def test_command_writes_figures_of_all_columns(tmp_path):
    out = tmp_path / "run"
    step_time.main(["--preset", "smoke", "--out", str(out), "--devices", "1"])
    figures = figures_of(out, "sequences")
    assert list(figures) == ["adamw", "muon", "shampoo", "shampoo, all at once"]
    assert all(own["median_ms"] > 0 for own in figures.values())
    assert set(figures["shampoo"]) == set(step_time.ROW[2:])
    adamw, shampoo = figures["adamw"], figures["shampoo"]
    assert adamw["ratio_to_adamw"] == figures["muon"]["ratio_to_muon"] == 1
    assert shampoo["amortised_floor_ms"] > shampoo["floor_ms"] > 0
    assert shampoo["state_bytes"] > adamw["state_bytes"]


@pytest.mark.parametrize("name", whole_step.WHOLE_STEPS)
@pytest.mark.long
def test_whole_steps_train(name):
    small = {
        "transformer_step": {"width": 16, "layers": 1},
        "sequences_step": {"items": 30, "length": 8},
    }
    problem = whole_step.WHOLE_STEPS[name](rows=8, **small[name])
    params = problem.init_params(jax.random.key(0))
    gradient = jax.jit(jax.value_and_grad(problem.loss, has_aux=True))
    (before, _), grads = gradient(params, problem.batch, jax.random.key(1))
    params = jax.tree.map(lambda w, g: w - 0.1 * g, params, grads)
    assert gradient(params, problem.batch, jax.random.key(1))[0][0] < before


@pytest.mark.long
def test_command_times_whole_steps(tmp_path, monkeypatch):
    tiny = functools.partial(whole_step.transformer, width=16, layers=1, rows=2)
    monkeypatch.setitem(step_time.WHOLE_STEPS, "transformer_step", tiny)
    out = tmp_path / "run"
    sets = ["--sets", "transformer_step", "--frequency", "2", "--cycles", "1"]
    step_time.main([*sets, "--out", str(out), "--devices", "1"])
    figures = figures_of(out, "transformer_step")
    assert list(figures) == ["adamw", "shampoo", "thrifty"]
    adamw, shampoo = figures["adamw"], figures["shampoo"]
    assert shampoo["ratio_to_adamw"] == shampoo["amortised_ms"] / adamw["amortised_ms"]


def test_sizes_are_checked():
    with pytest.raises(InputError, match="--frequency: expected at least 1, found 0"):
        step_time.StepTime(frequency=0)
    with pytest.raises(InputError, match=r"--sets: expected some of .* found vgg"):
        step_time.StepTime(sets="blocks12,vgg")


@pytest.mark.long
def test_a_model_is_timed_in_parts(tmp_path):
    out = tmp_path / "run"
    step_time.main(["--preset", "smoke", "--model", "nxtpost", "--out", str(out), "--devices", "1"])
    summary = json.loads((out / "summary.json").read_text())
    figures = summary["metrics"] | summary["baselines"]
    parts = {c: figures[f"nxtpost/adamw/{c}"] for c in nxtpost_time.TRAINING}
    assert all(np.isfinite(v) and v > 0 for v in parts.values())
    assert parts["sequences/s"] == pytest.approx(8e3 / parts["loop_ms"])
    serving = {k.split("/", 2)[2]: v for k, v in figures.items() if "/serving/" in k}
    assert {"users/s", "request p99 ms", "event p50 ms", "insert p50 ms"} <= set(serving)
    assert all(v > 0 for v in serving.values())


TINY = {"kernel": (6, 4), "bias": (4,)}


@pytest.mark.long
def test_workers_of_their_own_processes_take_turns():
    order = {"set": "sequences", "optimizer": "equal", "frequency": 1, "cycles": 1}
    command = [sys.executable, "-m", "experiments.bench.step_worker", json.dumps(order)]
    found = processes.take_turns({"ours": processes.Worker(command=command)}, rounds=1)
    assert list(found) == ["ours"]
    assert len(found["ours"]) == 1
    assert found["ours"][0] > 0


def test_the_environment_of_a_worker_is_its_own(monkeypatch):
    monkeypatch.setenv("SET_HERE", "1")
    monkeypatch.setenv("UNSET", "1")
    said = (
        "import json, os; print(json.dumps({'milliseconds': [len(os.environ.get(n, '')) for n in "
    )
    command = [sys.executable, "-c", f"{said}('SET_HERE', 'UNSET', 'NEW')]}}))"]
    worker = processes.Worker(command=command, environment={"UNSET": None, "NEW": "abc"})
    assert worker.milliseconds() == [1, 0, 3]


def test_a_peer_that_cannot_be_had_is_named(tmp_path, capsys):
    out = ["--out", str(tmp_path / "run"), "--sets", "sequences", "--cycles", "1"]
    with pytest.raises(SystemExit):
        step_time.main([*out, "--peer", str(tmp_path / "no_python")])
    assert "no_python: expected a command that ends well, found" in capsys.readouterr().err


@pytest.mark.parametrize("optimizer", ["adamw", "shampoo", "equal"])
def test_a_worker_times_whole_cycles(optimizer, monkeypatch):
    monkeypatch.setitem(PARAMETER_SETS, "tiny", lambda: TINY)
    order = step_worker.Order(set="tiny", optimizer=optimizer, frequency=2, cycles=3)
    assert len(step_worker.milliseconds(order)) == 6
