"""Sampled-softmax training of a scorer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from experiments.harness.options import Options
from experiments.harness.run_folder import open_run
from experiments.retrieval.training import softmax_of, train_scorer

ODDS = np.arange(1, 9) / 36  # of eight items


def by_popularity(params, users, items):
    return jnp.broadcast_to(params["logits"][items], (users.shape[0], items.shape[-1]))


def loss(params, batch, key):
    others = jax.random.randint(key, (32,), 0, 8)
    own = batch["items"]
    ids = {"own": own, "others": others, "own_ids": own, "other_ids": others}
    return softmax_of(by_popularity, params, users=own[:, None], **ids), {}


def train_popularity(run, *, stage, drawn=None, **changes):
    """Train a logit per item on items drawn by their odds; `drawn` collects the batches."""

    def draw(rng):
        batch = {"items": rng.choice(8, 64, p=ODDS)}
        if drawn is not None:
            drawn.append(batch["items"])
        return batch

    options = {
        "init_params": lambda key: {"logits": jnp.zeros(8)},
        "draw": draw,
        "tx": optax.adam(0.1),
        "steps": 5,
        "evaluate_every": 2,
        "evaluate": lambda params: {"largest": float(params["logits"].max())},
        "select": "largest",
        "seed": 0,
        "mesh": Mesh(np.array(jax.devices()[:1]), ("data",)),
    }
    return train_scorer(run, loss, stage=stage, **(options | changes))


@pytest.fixture
def run(tmp_path):
    with open_run("training", Options(out=tmp_path / "run"), arguments=()) as run:
        yield run


def test_a_scorer_learns_the_odds_of_items(run):
    result = train_popularity(run, stage="long", steps=300, evaluate_every=100)
    learned = np.asarray(jax.nn.softmax(result.params["logits"]))
    # Not the odds themselves: of 32 negatives each item is drawn four times, the own once.
    np.testing.assert_allclose(learned, ODDS, atol=0.06)
    assert np.corrcoef(learned, ODDS)[0, 1] > 0.97


def test_steps_are_whole_rounds_at_most_and_batches_go_by_seed_round_and_stream(run):
    drawn = {}
    for stage, changes in (("one", {}), ("same", {}), ("seed", {"seed": 1}), ("s", {"stream": 1})):
        drawn[stage] = []
        result = train_popularity(run, stage=stage, drawn=drawn[stage], **changes)
        assert result.steps == len(drawn[stage]) == 4  # of 5 steps, evaluated every 2
        assert [record["step"] for record in result.history] == [2, 4]
    first, third = drawn["one"][0], drawn["one"][2]
    np.testing.assert_array_equal(drawn["one"], drawn["same"])
    assert not np.array_equal(first, third)
    for other in ("seed", "s"):
        assert not np.array_equal(drawn[other][0], first)
    one = train_popularity(run, stage="once", steps=1, evaluate_every=100)
    assert one.steps == 1


def test_the_best_parameters_on_validation_are_returned_and_patience_ends_early(run):
    scores = iter([1.0, 3.0, 2.0, 2.5, 9.0])
    result = train_popularity(
        run, stage="select", steps=10, evaluate=lambda _: {"largest": next(scores)}, patience=2
    )
    assert (result.best_epoch, result.steps) == (1, 8)
    assert [record["largest"] for record in result.history] == [1.0, 3.0, 2.0, 2.5]


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
            ids = {"own": own, "others": others, "own_ids": own, "other_ids": others}
            return softmax_of(scorer, logits, users=users, **ids, log_expected=log_expected)

        gradient = jax.grad(loss)(jnp.log(jnp.asarray(odds, jnp.float32)))
        return float(jnp.linalg.norm(gradient))

    # What is left is the draws' own noise, about sqrt(2 / 4096) = 0.022.
    assert slope(jnp.log(jnp.asarray(draws, jnp.float32))) < 0.03 < 0.08 < slope(None)
