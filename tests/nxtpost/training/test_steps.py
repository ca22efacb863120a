"""The built-in loop's step: it learns, is compiled once, and gives the same over a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from nxtpost_jax.events.batches import train_batches
from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.serving.recommender import Recommender
from nxtpost_jax.training import averages, steps
from nxtpost_jax.training.negatives import log_popularity
from nxtpost_jax.training.objective import Objective
from nxtpost_jax.training.task import Task, TowerLoss, task
from tests.nxtpost.slow_losses import L, Tables, drawn_sequences, drawn_tables
from tests.nxtpost.slow_losses import N as ITEMS
from tests.nxtpost.small_recommender import FAST, TINY, N, cycles


def test_steps_lower_the_loss_and_are_traced_once():
    both = {"short_weight": 0.5, "long_weight": 2.0, "num_labels": 3}
    objective = Objective(negatives="mixed", num_negatives=25, logq=True, **both)
    shapes = {"max_len": L, "batch_size": 4, "num_labels": 3}
    batches = list(train_batches(drawn_sequences(), seed=0, epoch=0, **shapes))
    popularity = jnp.asarray(log_popularity(drawn_sequences(), ITEMS))
    candidates = jnp.unique(drawn_sequences().items)
    loss = TowerLoss(Tables(), objective, None, candidates, popularity)
    tx, params = optax.adam(1e-2), jax.tree.map(jnp.copy, drawn_tables(batches[0]))
    state, means = steps.TrainState(params, tx.init(params)), []
    posed = Task(loss.model, drawn_sequences(), loss, 4, 1, seed=0)
    where = steps.placed(posed, tx)
    for _ in range(8):
        *_, (state, losses) = steps.taken(posed, state, batches, where=where)
        means.append(np.mean(losses))
        assert len(losses) == len(batches)
    assert means[-1] < 0.9 * means[0]
    assert where.step._cache_size() == 1


def fit(tx=FAST, **options):
    recommender = Recommender(TINY, num_items=N, tx=tx)
    return recommender.fit(cycles(), epochs=2, batch_size=32, num_negatives=16, **options)


@pytest.mark.parametrize("tx", [FAST, pytest.param("shampoo", marks=pytest.mark.long)])
def test_losses_over_a_mesh_are_those_of_one_device(tx):
    """Explicit axes, as of `jax.make_mesh`, are fine; Shampoo cuts its state by the mesh."""
    one = fit(tx)
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    four = fit(tx, mesh=mesh)
    assert one[1]["loss"] < one[0]["loss"]
    for a, b in zip(one, four):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_what_a_mesh_cannot_deal_is_refused():
    devices = np.array(jax.devices()[:3])
    with pytest.raises(ValueError, match="mesh: expected an axis 'data', found rows"):
        fit(mesh=Mesh(devices, ("rows",)))
    with pytest.raises(
        ValueError, match=r"batch_size: expected a multiple of the 3 devices of .*32"
    ):
        fit(mesh=Mesh(devices, ("data",)))


@pytest.mark.parametrize("average", [0, 0.25, None])
def test_a_task_is_all_that_a_loop_of_ones_own_needs(average):
    """The same keys and batches give the built-in loop's parameters, up to rounding.

    By SGD: Adam would take the rounding of a gradient of zero, that of the keys' bias, for a sign.
    What is served is their average, or the last ones.
    """
    after = []

    def own(posed, *, tx, epochs, log, **rest):
        del rest
        assert posed.steps_per_epoch == 2 and posed.batch_shapes == [(32, TINY.max_len)]
        params = posed.init(posed.init_key)
        state, records, taken = tx.init(params), [], 0
        gradient = jax.jit(jax.value_and_grad(posed.loss, has_aux=True))
        for epoch in range(epochs):
            for batch in posed.batches(epoch):
                (value, _), grads = gradient(params, batch, posed.step_key(taken))
                updates, state = tx.update(grads, state, params)
                params, taken = optax.apply_updates(params, updates), taken + 1
                after.append(params)
            records.append({"epoch": epoch, "loss": float(value)})
        return params, records

    fitted = {}
    for name, loop, how in (("own", own, None), ("built-in", None, average)):
        fitted[name] = Recommender(TINY, num_items=N, tx=optax.sgd(0.1))
        given = {"batch_size": 32, "num_negatives": 16, "average": how}
        records = fitted[name].fit(cycles(), epochs=2, loop=loop, seed=3, **given)
        assert [record["epoch"] for record in records] == [0, 1]
    eta = 1 / (average or 0.1) - 2
    shares = (eta + 1) / (np.arange(1, 5) + eta) if average != 0 else np.array([1, 0, 0, 1.0])
    weights = [share * np.prod(1 - shares[k + 1 :]) for k, share in enumerate(shares)]
    assert sum(weights) == pytest.approx(1)
    expected = jax.tree.map(
        lambda *each: sum(w * np.asarray(x) for w, x in zip(weights, each)), *after
    )
    assert jax.tree.structure(expected) == jax.tree.structure(fitted["built-in"].params)
    for a, b in zip(*(jax.tree.leaves(each) for each in (expected, fitted["built-in"].params))):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    assert fitted["own"].recommend([[1, 2]], 3).ids.tolist()


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02])
def test_the_mean_age_is_a_share_of_the_steps_so_far(share):
    """Of parameters that grow by one a step; what the average began with is not in it."""
    average = averages.begun({"w": jnp.full(3, -1e6)}, share=share)
    for step in range(1, 31):
        average = averages.moved(average, {"w": jnp.full(3, float(step))})
        np.testing.assert_allclose(average.params["w"], step - share * (step - 1), rtol=1e-5)


def test_an_average_keeps_its_dtype():
    average = averages.begun({"w": jnp.zeros(3, jnp.bfloat16)}, share=0.5)
    for value in (1.0, 2.0):
        average = averages.moved(average, {"w": jnp.full(3, value, jnp.bfloat16)})
    assert average.params["w"].dtype == jnp.bfloat16 and average.params["w"].tolist() == [1.5] * 3


@pytest.mark.parametrize(
    "name, value", [("progress", True), ("checkpoint", "x"), ("mesh", "m"), ("average", 0.1)]
)
def test_what_the_built_in_loop_does_is_refused_beside_another(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected None beside a loop of your own"):
        fit(loop=lambda *_, **__: None, **{name: value})


def test_what_a_loop_gives_is_checked():
    with pytest.raises(ValueError, match=r"loop: expected \(params, records\) from it, found None"):
        fit(loop=lambda *_, **__: None)
    with pytest.raises(ValueError, match="params: expected those of this model, found others"):
        fit(loop=lambda *_, **__: ({"post_tower": {}, "user_tower": {}}, []))


def test_a_task_that_goes_nowhere_is_refused():
    short = task(Recommender(TINY, num_items=N).model, Sequences([1, 2], [0, 1, 2]))
    with pytest.raises(ValueError, match="train: expected a user with at least two events"):
        short.init(short.init_key)
