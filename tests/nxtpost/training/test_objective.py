import pytest

from nxtpost_jax.training.objective import MIXED, Objective, for_items, resolve


def test_equal_objectives_are_one_key():
    assert len({Objective(), Objective(), Objective(logq=True)}) == 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"loss": "hinge"}, "loss: expected one of 'sampled_softmax', .* found 'hinge'"),
        ({"negatives": "hard"}, "negatives: expected one of .*'mixed', found 'hard'"),
        ({"num_negatives": 0}, "num_negatives: expected at least 1, found 0"),
        ({"num_labels": 0}, "num_labels: expected at least 1, found 0"),
        ({"chunk": -1}, "chunk: expected at least 1, found -1"),
        ({"short_weight": -1.0}, "short_weight: expected a finite number of at least 0, found -1"),
        ({"long_weight": float("nan")}, "long_weight: expected a finite number .* found nan"),
        ({"short_weight": 0.0}, "long_weight: expected above 0 where short_weight is 0, found 0"),
        ({"calibration": 1.5}, r"calibration: expected in \[0, 1\], found 1.5"),
        ({"label_smoothing": 1.0}, r"label_smoothing: expected a share in \[0, 1\), found 1.0"),
        (
            {"label_smoothing": 0.1, "loss": "gbce"},
            "label_smoothing: expected a softmax loss beside it, found 'gbce'",
        ),
        ({"logq": True, "loss": "bce"}, "logq: expected loss 'sampled_softmax' .* found 'bce'"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Objective(**options)


def test_the_number_of_negatives_alone_is_an_objective():
    assert resolve(None, None) is None  # the number of items decides
    assert resolve(None, 7) == Objective(num_negatives=7)
    mixed = Objective(negatives="mixed", logq=True, num_negatives=7)
    assert resolve(None, 7, rest=MIXED) == mixed
    assert resolve(Objective(loss="bce"), None) == Objective(loss="bce")
    with pytest.raises(ValueError, match="num_negatives: expected it within the objective alone"):
        resolve(Objective(), 7)


def test_few_items_are_all_scored_and_of_more_a_sixth_is_drawn():
    assert for_items(500) == Objective(loss="full_softmax")
    for items, drawn in ((501, 256), (1682, 256), (6200, 1024), (12_101, 1024), (10**6, 2048)):
        expected = Objective(negatives="mixed", logq=True, num_negatives=drawn)
        assert for_items(items) == expected
