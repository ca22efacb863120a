"""The loop: meshes agree, selection is by validation, what is wrong is said."""

import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import shampoo_jax
from experiments.harness.devices import make_mesh
from experiments.harness.errors import InputError
from experiments.harness.options import OneSeed
from experiments.harness.run_folder import open_run, read_metrics
from experiments.loop.checkpoints import Checkpoints
from experiments.loop.parameter_average import exponential
from experiments.loop.sharding import replicated
from experiments.loop.train_step import state_layout
from shampoo_jax import Refresh
from tests.experiments import tiny_problem
from tests.experiments.tiny_problem import EPOCHS, STEPS, batches, train_tiny


@pytest.fixture
def run(tmp_path):
    with open_run("tiny_problem", OneSeed(out=tmp_path / "run"), arguments=()) as run:
        yield run


def relative_difference(found, expected):
    return max(
        float(np.linalg.norm(a - b) / np.linalg.norm(b))
        for a, b in zip(*(jax.tree.leaves(jax.device_get(tree)) for tree in (found, expected)))
    )


def one_epoch(run, stage, *, steps, devices, **changes):
    return train_tiny(
        run,
        stage=stage,
        devices=devices,
        epochs=1,
        steps_per_epoch=steps,
        batches=lambda epoch: (b for e in range(4) for b in tiny_problem.batches(e)),
        **changes,
    )


def test_eight_devices_give_the_loss_and_gradients_of_one(run):
    """`trace(0)` keeps the gradient in its state; dropout is on, so keys must agree too."""
    gradient = optax.chain(optax.trace(decay=0.0), optax.scale(0.0))
    one, eight = (one_epoch(run, f"gradient-{n}", steps=1, devices=n, tx=gradient) for n in (1, 8))
    assert relative_difference(eight.opt_state[0].trace, one.opt_state[0].trace) < 1e-6
    losses = [line["loss"] for line in read_metrics(run.folder / "metrics.jsonl") if "loss" in line]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_eight_devices_follow_one_for_twenty_steps(run):
    one = one_epoch(run, "one", steps=20, devices=1)
    eight = one_epoch(run, "eight", steps=20, devices=8)
    rules = [("hidden/kernel", P(None, "data")), ("out/kernel", P("data"))]
    sharded = one_epoch(run, "sharded", steps=20, devices=8, rules=rules)
    assert relative_difference(eight.params, one.params) < 1e-4
    assert relative_difference(sharded.params, one.params) < 1e-4
    assert sharded.params["out"]["kernel"].sharding.spec == P("data")


def test_state_follows_params():
    mesh = make_mesh(jax.devices()[:4])
    rules = [("out/kernel", P("data"))]
    tx = optax.adamw(1e-2)
    layout = state_layout(tiny_problem.init_params, tx, mesh=mesh, rules=rules)
    assert layout.opt_state[0].mu["out"]["kernel"].sharding == NamedSharding(mesh, P("data"))
    assert layout.opt_state[0].mu["hidden"]["bias"].sharding == replicated(mesh)
    assert layout.opt_state[0].count.sharding == replicated(mesh)


def test_masked_state_follows_params_and_blocks_of_shampoo_are_dealt():
    mesh = make_mesh(jax.devices()[:4])
    rules = [("out/kernel", P("data"))]
    mask = {"hidden": False, "out": True}
    adam = optax.masked(optax.adam(1e-2), mask)
    with jax.set_mesh(mesh):
        tx = optax.chain(adam, optax.trace(0.9), shampoo_jax.shampoo(1e-2))
        layout = state_layout(tiny_problem.init_params, tx, mesh=mesh, rules=rules)
    masked, trace, (shampoo, *_) = layout.opt_state
    on_rows = NamedSharding(mesh, P("data"))
    assert masked.inner_state[0].mu["out"]["kernel"].sharding == on_rows
    assert trace.trace["out"]["kernel"].sharding == on_rows
    assert trace.trace["hidden"]["kernel"].sharding == replicated(mesh)
    assert shampoo.pools[0].last_refresh.sharding.spec[0] in ("data", ("data",))
    assert shampoo.count.sharding.is_fully_replicated


def test_factored_state_of_another_shape_is_replicated():
    mesh = make_mesh(jax.devices()[:4])
    tx = optax.adafactor(1e-2, min_dim_size_to_factor=2)
    layout = state_layout(
        tiny_problem.init_params, tx, mesh=mesh, rules=[("kernel", P(None, "data"))]
    )
    assert {leaf.sharding for leaf in jax.tree.leaves(layout.opt_state)} == {replicated(mesh)}


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [("max", [0.1, 0.5, 0.5], 1), ("min", [0.4, 0.3, 0.9], 1), ("max", [np.nan, 0.2, 0.1], 1)],
)
def test_parameters_of_the_best_validation_epoch_are_returned(run, mode, values, best):
    seen = []

    def evaluate(params):
        seen.append(jax.device_get(params))
        return {"score": values[len(seen) - 1]}

    result = train_tiny(run, evaluate=evaluate, select="score", select_mode=mode)
    assert result.best_epoch == best
    chex.assert_trees_all_equal(*jax.device_get((result.params, seen[best])))
    assert relative_difference(result.params, seen[-1]) > 0.0
    assert [record["epoch"] for record in result.history] == [0, 1, 2]
    assert result.steps == 3 * STEPS


def test_the_average_of_the_best_epoch_is_returned_whatever_devices_finish_the_stage(run):
    values, seen = [0.1, 0.5, 0.4], []

    def evaluate(params):
        seen.append(jax.device_get(params))
        return {"score": values[len(seen) - 1]}

    def crash_in_third_epoch(epoch):
        if epoch == 2:
            raise RuntimeError("power cut")
        yield from tiny_problem.batches(epoch)

    how = {"evaluate": evaluate, "select": "score", "average": exponential(0.9)}
    how["tx"] = shampoo_jax.shampoo(1e-2)
    with pytest.raises(RuntimeError, match="power cut"):
        train_tiny(run, devices=4, batches=crash_in_third_epoch, **how)
    result = train_tiny(run, devices=2, **how)
    chex.assert_trees_all_equal(*jax.device_get((result.params, seen[1])))
    assert result.best_epoch == 1
    plain = train_tiny(run, stage="plain", tx=how["tx"], devices=2, evaluate=None)
    assert relative_difference(result.last_params, plain.params) < 1e-4
    assert relative_difference(result.params, plain.params) > 0.01
    del how["evaluate"], how["select"]
    whole = train_tiny(run, stage="whole", devices=2, evaluate=None, **how)
    assert relative_difference(seen[2], whole.params) < 1e-4


def test_finished_stage_is_restored_and_not_trained_again(run):
    first = train_tiny(run, evaluate=None)

    def no_batches(epoch):
        raise AssertionError("a finished stage asked for batches")

    again = train_tiny(run, evaluate=None, batches=no_batches)
    chex.assert_trees_all_equal(*jax.device_get((again.params, first.params)))
    chex.assert_trees_all_equal(*jax.device_get((again.opt_state[0].mu, first.opt_state[0].mu)))
    assert again.seconds == first.seconds
    assert again.history == first.history


def test_sharded_shampoo_resumes_to_the_same_bits(run):
    """Its blocks are sharded over the mesh by its own layout, and come back on their owners."""
    arguments = {
        "tx": shampoo_jax.shampoo(1e-2, refresh=Refresh(precondition_frequency=3)),
        "devices": 4,
        "evaluate": None,
    }

    def crash_in_second_epoch(epoch):
        for i, batch in enumerate(tiny_problem.batches(epoch)):
            if epoch == 1 and i == 5:
                raise RuntimeError("power cut")
            yield batch

    whole = train_tiny(run, stage="whole", **arguments)
    with pytest.raises(RuntimeError, match="power cut"):
        train_tiny(run, stage="cut", batches=crash_in_second_epoch, **arguments)
    assert run.checkpoint_folder("cut").joinpath("12").is_dir()  # inside the second epoch
    resumed = train_tiny(run, stage="cut", **arguments)
    trees = [(result.params, result.opt_state) for result in (whole, resumed)]
    chex.assert_trees_all_equal(*jax.device_get(trees))
    factors = resumed.opt_state[0].pools[0].factors[0]
    assert factors.sharding.spec[0] in ("data", ("data",))
    assert factors.sharding == whole.opt_state[0].pools[0].factors[0].sharding


def test_evaluation_every_second_epoch_and_after_the_last(run):
    result = train_tiny(run, evaluate_every=2)
    assert ["val_loss" in record for record in result.history] == [False, True, True]


def test_stage_ends_after_so_many_evaluations_without_a_new_best(run):
    values = iter([0.1, 0.5, 0.4, 0.5])
    result = train_tiny(
        run,
        epochs=20,
        evaluate=lambda params: {"score": next(values)},
        select="score",
        patience=2,
    )
    assert [r["score"] for r in result.history] == [0.1, 0.5, 0.4, 0.5]
    assert (result.best_epoch, result.steps) == (1, 4 * STEPS)
    again = train_tiny(run, epochs=20, evaluate=None, select=None)
    assert again.steps == result.steps


def test_stage_ends_after_so_many_evaluations_where_none_is_a_number(run):
    result = train_tiny(
        run,
        epochs=20,
        evaluate=lambda params: {"score": float("nan")},
        select="score",
        patience=2,
    )
    assert (result.best_epoch, result.steps) == (None, 2 * STEPS)


def test_no_epochs_return_the_initial_parameters(run):
    result = train_tiny(run, epochs=0)
    key = jax.random.split(jax.random.key(3))[0]
    chex.assert_trees_all_equal(
        *jax.device_get((result.params, jax.jit(tiny_problem.init_params)(key)))
    )
    assert (result.steps, result.history, result.best_epoch) == (0, [], None)


def test_seconds_leave_out_evaluation_and_compilation(run):
    def slow(params):
        jax.block_until_ready(params)
        time.sleep(0.5)
        return {"val": 0.0}

    result = train_tiny(run, epochs=1, evaluate=slow)
    assert 0.0 < result.seconds < 0.5
    assert result.compile_seconds > 0.0


def test_metrics_have_a_line_a_logged_step(run):
    train_tiny(run, log_every=5)
    lines = read_metrics(run.folder / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [1, 5, 10, 15, 20]
    assert [line["step"] for line in lines if "val_loss" in line] == [8, 16, 24]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def test_last_two_and_best_checkpoints_are_kept(run):
    values = iter([0.9, 0.1, 0.2])
    train_tiny(run, evaluate=lambda params: {"score": next(values)}, select="score")
    kept = sorted(int(path.name) for path in run.checkpoint_folder("adamw").iterdir())
    assert kept == [8, 23, 24]


def test_optimizer_without_state_and_with_masks_can_be_saved(run):
    masked = optax.masked(optax.adam(1e-2), {"hidden": False, "out": True})
    for stage, tx in (("sgd", optax.sgd(1e-2)), ("masked", masked)):
        first = one_epoch(run, stage, steps=2, devices=2, tx=tx)
        again = one_epoch(run, stage, steps=2, devices=2, tx=tx)
        assert jax.tree.structure(again.opt_state) == jax.tree.structure(first.opt_state)


def test_checkpoint_of_another_config_is_refused_by_field(run):
    train_tiny(run, devices=2, epochs=1)
    run.config["seed"] = 5
    with pytest.raises(InputError, match="seed is 0 there and 5 here"):
        train_tiny(run, devices=2, epochs=1)


def test_wrong_arguments_are_named(run):
    with pytest.raises(InputError, match="multiple of the 3 devices, found 16 rows in 'x'"):
        train_tiny(run, stage="a", devices=3)
    with pytest.raises(ValueError, match=r"b: expected 9 batches from batches\(0\), found 8"):
        train_tiny(run, stage="b", steps_per_epoch=STEPS + 1)
    with pytest.raises(ValueError, match=r"select: expected one of \['val_loss'\], found 'ndcg'"):
        train_tiny(run, stage="c", select="ndcg")
    with pytest.raises(ValueError, match="evaluate: expected a function because select='x'"):
        train_tiny(run, stage="d", select="x", evaluate=None)
    with pytest.raises(ValueError, match="log_every: expected at least 1, found 0"):
        train_tiny(run, stage="e", log_every=0)


def test_batches_of_two_shapes_are_compiled_once_each(run):
    def two_widths(epoch):
        for i, batch in enumerate(batches(epoch)):
            yield batch if i % 2 else {name: rows[:8] for name, rows in batch.items()}

    result = train_tiny(run, batches=two_widths, batch_shapes=2)
    assert result.steps == EPOCHS * STEPS
    assert result.compile_seconds > 0
    with pytest.raises(ValueError, match="batch: expected at most 1 different shapes, found"):
        train_tiny(run, stage="b", batches=two_widths)


def test_stage_leaves_no_mesh_behind(run):
    train_tiny(run, devices=2, epochs=1)
    assert jax.sharding.get_abstract_mesh().empty
    assert jnp.ones(3).sharding.device_set == {jax.devices()[0]}


def with_nan(bad):
    """The problem's batches; those of `bad`, (epoch, number), hold a NaN."""

    def batches(epoch):
        for i, batch in enumerate(tiny_problem.batches(epoch)):
            if (epoch, i) in bad:
                batch["x"][3, 2] = np.nan
            yield batch

    return batches


def logged(run):
    return [line for line in read_metrics(run.folder / "metrics.jsonl") if "loss" in line]


def test_skipped_steps_are_counted_and_told(run, capsys):
    result = train_tiny(run, batches=with_nan({(0, 2), (1, 5)}))
    assert [line["skipped"] for line in logged(run)] == [0, 0, *[1] * 11, *[2] * 11]
    assert [line["step"] for line in logged(run) if line["loss"] is None] == [3, 14]
    assert "adamw: 2 of 24 steps skipped, their loss or gradient was not finite" in (
        capsys.readouterr().err
    )
    assert relative_difference(result.params, train_tiny(run, stage="whole").params) > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))


@pytest.mark.parametrize("log_every", [1, 3, 100])
def test_too_many_skipped_steps_in_a_row_end_the_stage_with_the_state_before(run, log_every):
    """However late the host sees it; a resumed run goes on behind them."""
    bad = {(1, i) for i in (1, 2, 3, 4)}
    options = {"most_skipped": 3, "log_every": log_every, "checkpoint_every": 100}
    free = options | {"most_skipped": None}
    before = train_tiny(run, stage="before", batches=batches_until(1, 1), epochs=2, **free)
    with pytest.raises(InputError, match=r"cut, step 12: expected a finite .* found 3 steps in a"):
        train_tiny(run, stage="cut", batches=with_nan(bad), **options)
    seen = [line["skipped"] for line in logged(run) if line["stage"] == "cut"]
    assert log_every > 1 or seen[-3:] == [1, 2, 3]
    assert sorted(p.name for p in run.checkpoint_folder("cut").iterdir()) == ["12"]
    mesh = make_mesh(jax.devices()[:1])
    with Checkpoints(run.checkpoint_folder("cut"), config=run.config, mesh=mesh) as checkpoints:
        assert checkpoints.read_record()["progress"]["skipped"] == 3
        params = checkpoints.restore_params(12, like=before.params)
    chex.assert_trees_all_equal(*jax.device_get((params, before.params)))
    resumed = train_tiny(run, stage="cut", batches=with_nan(bad), **options)
    whole = train_tiny(run, stage="whole", batches=with_nan(bad), **free)
    trees = [(result.params, result.opt_state) for result in (resumed, whole)]
    chex.assert_trees_all_equal(*jax.device_get(trees))


def batches_until(epoch, number):
    """The problem's batches, all from one on with a NaN."""
    return with_nan({(epoch, i) for i in range(number, STEPS)})


def test_the_last_step_of_an_epoch_is_saved_once_and_after_its_evaluation(run, monkeypatch):
    saved, save = [], Checkpoints.save

    def noted(self, step, *args, **kwargs):
        saved.append(step)
        return save(self, step, *args, **kwargs)

    monkeypatch.setattr(Checkpoints, "save", noted)
    train_tiny(run, checkpoint_every=1, epochs=2)
    assert saved == list(range(1, 2 * STEPS + 1))


def test_a_count_of_skipped_steps_survives_a_resume(run):
    def crash(epoch):
        for i, batch in enumerate(with_nan({(0, 1), (0, 2), (0, 3), (0, 4)})(epoch)):
            if i == 4:
                raise RuntimeError("power cut")
            yield batch

    options = {"most_skipped": 4, "checkpoint_every": 3}
    with pytest.raises(RuntimeError, match="power cut"):
        train_tiny(run, batches=crash, **options)
    with pytest.raises(InputError, match="adamw, step 5: expected a finite loss"):
        train_tiny(run, batches=with_nan({(0, 1), (0, 2), (0, 3), (0, 4)}), **options)
