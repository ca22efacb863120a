"""The built-in loop: when it ends, what it keeps, and what it shows."""

import io
import re
import sys

import jax
import numpy as np
import optax
import pytest

from nxtpost_jax.events.splits import leave_one_out
from nxtpost_jax.serving.recommender import Recommender
from nxtpost_jax.training.fitting import Diverged
from tests.nxtpost.small_recommender import FAST, TINY, N, cycles

SPLIT = leave_one_out(cycles())
HOW = {"batch_size": 32, "num_negatives": 16}


def fit(recommender=None, tx=FAST, **options):
    recommender = recommender or Recommender(TINY, num_items=N, tx=tx)
    return recommender, recommender.fit(SPLIT.train, **HOW | options)


def scripted(values):
    """A validation that gives one value after the other, and the parameters it was given."""
    given = []

    def validate(params):
        given.append(jax.tree.map(np.array, params))
        return {"own": values[len(given) - 1]}

    return validate, given


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)))


def test_patience_ends_a_fit_and_the_best_epoch_is_served():
    validate, given = scripted([0.1, 0.3, np.nan, 0.3, 0.2, 0.9])
    recommender, records = fit(epochs=6, validation=validate, select="own", patience=3)
    assert [record["own"] for record in records[:2]] == [0.1, 0.3]
    assert len(records) == 5  # three validations in a row without a new best
    assert same(recommender.params, given[1])
    validate, given = scripted([0.3, 0.2, 0.1])
    _, records = fit(epochs=9, validation=validate, select="own", patience=2)
    assert len(records) == 3  # the first one may be the best


def test_any_figure_selects_and_seen_items_may_stay():
    recommender, records = fit(
        epochs=1, validation=SPLIT.validation, select="hr@3", seen_filter=False
    )
    expected = recommender.evaluate(SPLIT.validation, ks=(3, 10), seen_filter=False, bootstrap=0)
    assert {name: records[0][name] for name in expected.values} == expected.values
    assert "hr@3" in expected.values


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"select": "mrr", "epochs": 1},
            "select: expected validation beside it, found 'mrr' alone",
        ),
        ({"patience": 2, "epochs": 1}, "patience: expected validation beside it, found 2 only"),
        ({"patience": 0}, "patience: expected at least 1, found 0"),
        ({"average": -0.5}, r"average: expected a share in \[0, 0.5\], found -0.5"),
        ({"average": float("nan")}, r"average: expected a share in \[0, 0.5\], found nan"),
        (
            {"seen_filter": False, "epochs": 1},
            "seen_filter: expected validation queries beside False",
        ),
        (
            {"validation": SPLIT.validation, "select": "loss"},
            "select: expected 'hr@k', 'ndcg@k', 'mrr' or 'mlrr', found 'loss'",
        ),
        (
            {"validation": lambda params: {"a": 1, "b": 2}, "epochs": 1},
            "select: expected one of a, b, found 'ndcg@10'",
        ),
    ],
)
def test_what_cannot_select_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit(**options)


def interrupting(values, *, at):
    """A validation as `scripted`, and a log that is Ctrl-C after some epoch."""
    validate, given = scripted(values)

    def log(record):
        if record["epoch"] == at:
            raise KeyboardInterrupt

    return {"validation": validate, "select": "own", "log": log}, given


def test_ctrl_c_after_a_validation_serves_the_best_epoch():
    options, given = interrupting([0.1, 0.3, 0.2], at=2)
    recommender = Recommender(TINY, num_items=N, tx=FAST)
    with pytest.raises(KeyboardInterrupt):
        fit(recommender, epochs=5, **options)
    assert same(recommender.params, given[1])
    assert recommender.recommend([[1, 2]], 3).ids.shape == (1, 3)


def test_ctrl_c_before_a_validation_leaves_the_model_before():
    recommender, _ = fit(epochs=1)
    before = recommender.params
    options, _ = interrupting([0.1], at=0)
    with pytest.raises(KeyboardInterrupt):
        fit(recommender, epochs=5, **options | {"validate_every": 3})
    assert recommender.params is before
    options.pop("validation"), options.pop("select")
    with pytest.raises(KeyboardInterrupt):
        fit(recommender, epochs=5, **options)
    assert recommender.params is before
    fit(recommender, epochs=1)  # no fit is under way


def test_a_diverged_fit_gives_the_parameters_before():
    """The rate explodes in the third epoch; two steps make an epoch."""
    tx = optax.sgd(optax.piecewise_constant_schedule(0.1, {4: 1e35}))
    good, _ = fit(tx=tx, epochs=2)
    for options, epochs in (({}, 2), ({"validation": SPLIT.validation}, None)):
        recommender = Recommender(TINY, num_items=N, tx=tx)
        with pytest.raises(Diverged, match="of epoch 2; lower the learning rate") as caught:
            fit(recommender, epochs=5, **options)
        assert recommender.params is None
        if epochs:
            assert same(caught.value.params, good.params)
        recommender.adopt(caught.value.params)
        assert recommender.evaluate(SPLIT.validation, bootstrap=0)["ndcg@10"] > 0
    with pytest.raises(Diverged, match="after the last epoch") as caught:
        fit(tx=optax.sgd(1e30), epochs=1, batch_size=64)
    with pytest.raises(FloatingPointError):  # it is one
        raise caught.value


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_tells_how_far_it_is_on_a_terminal_alone(monkeypatch):
    for stream, wanted, shown in (
        (Terminal(), None, True),
        (Terminal(), False, False),
        (io.StringIO(), None, False),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        fit(epochs=2, validation=SPLIT.validation, progress=wanted)
        text = stream.getvalue()
        if shown:
            last = text.rstrip().rpartition("\x1b[2K")[2]
            assert re.fullmatch(r"epoch 2/2  loss \d\.\d{4}  ndcg@10 \d\.\d{4}  0 s left", last)
        else:
            assert not text


def test_an_optimizer_comes_by_a_word():
    for word in ("adamw", "shampoo"):
        _, records = fit(tx=word, epochs=3)
        assert records[-1]["loss"] < records[0]["loss"]
    with pytest.raises(ValueError, match=r"tx: .*, or 'adamw' or 'shampoo', found 'adam'"):
        Recommender(TINY, num_items=N, tx="adam")
