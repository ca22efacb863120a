"""NE, calibration and its corrections against closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from hsnn_jax.monn.calibration import (
    Platt,
    calibration,
    correct,
    fit_platt,
    normalised_entropy,
    undo_downsampling,
)


def drawn(seed, pairs=20_000, bias=-1.5):
    """True logits and labels drawn from them."""
    rng = np.random.default_rng(seed)
    logits = bias + 1.3 * rng.normal(size=pairs)
    return logits, rng.random(pairs) < 1 / (1 + np.exp(-logits))


def test_normalised_entropy_by_its_definition():
    logits, labels = drawn(0, 500)
    p = 1 / (1 + np.exp(-logits))
    log_loss = -np.where(labels, np.log(p), np.log(1 - p)).mean()
    rate = labels.mean()
    base = -np.where(labels, np.log(rate), np.log(1 - rate)).mean()
    assert normalised_entropy(logits, labels) == pytest.approx(log_loss / base, rel=1e-12)
    assert calibration(logits, labels) == pytest.approx(p.mean() / labels.mean(), rel=1e-12)


def test_the_base_rate_has_entropy_one_and_extreme_logits_stay_finite():
    labels = np.array([1, 0, 0, 0, 1])
    constant = np.full(5, np.log(0.4 / 0.6))
    assert normalised_entropy(constant, labels) == pytest.approx(1.0)
    assert calibration(constant, labels) == pytest.approx(1.0)
    assert normalised_entropy(1e5 * (2 * labels - 1), labels) == 0
    assert np.isfinite(normalised_entropy(-1e5 * (2 * labels - 1), labels))


@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (3.0, -2.0), (0.02, 9.0), (-1.0, 0.3)])
def test_platt_recovers_what_distorted_the_logits(scale, bias):
    logits, labels = drawn(1)
    honest = fit_platt(logits, labels)
    distorted = (logits - bias) / scale
    platt = fit_platt(distorted, labels)
    assert platt.scale == pytest.approx(honest.scale * scale, rel=1e-6)
    assert correct(platt, distorted) == pytest.approx(correct(honest, logits), abs=1e-6)
    assert honest.scale == pytest.approx(1.0, abs=0.05)
    assert honest.bias == pytest.approx(0.0, abs=0.1)


def test_platt_leaves_the_mean_right_and_the_gradient_zero():
    logits, labels = drawn(2, 3000)
    logits = 2.5 * logits + 3
    corrected = correct(fit_platt(logits, labels), logits)
    assert calibration(logits, labels) > 1.2
    assert calibration(corrected, labels) == pytest.approx(1.0, abs=1e-9)
    residual = 1 / (1 + np.exp(-corrected)) - labels
    assert abs(np.mean(residual * logits)) < 1e-8
    assert normalised_entropy(corrected, labels) < normalised_entropy(logits, labels)


def test_platt_of_equal_logits_and_of_separated_ones():
    labels = np.array([0, 1, 0, 0])
    platt = fit_platt(np.full(4, 7.0), labels)
    assert platt.scale == 1
    assert calibration(correct(platt, np.full(4, 7.0)), labels) == pytest.approx(1.0)
    separated = fit_platt(np.array([-1.0, 2.0, -2.0, -3.0]), labels)
    assert np.isfinite(separated).all()
    assert separated.scale > 5


def test_undoing_the_downsampling_of_negatives():
    logits, labels = drawn(3)
    kept = labels | (np.random.default_rng(4).random(labels.size) < 0.1)
    # A model that fits the sample is off by log(1 / 0.1) on all pairs.
    shifted = logits + np.log(10)
    assert calibration(shifted[kept], labels[kept]) == pytest.approx(1.0, abs=0.03)
    assert calibration(shifted, labels) > 2
    np.testing.assert_allclose(undo_downsampling(shifted, 0.1), logits, rtol=1e-12, atol=1e-12)
    p = 1 / (1 + np.exp(-shifted))
    closed = p / (p + (1 - p) / 0.1)
    np.testing.assert_allclose(1 / (1 + np.exp(-undo_downsampling(shifted, 0.1))), closed)


def test_corrections_take_jax_arrays():
    logits = jnp.asarray([[0.5, -1.0]])
    np.testing.assert_allclose(correct(Platt(2.0, 1.0), logits), [[2.0, -1.0]])
    assert undo_downsampling(logits, 0.5).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: normalised_entropy([0.0, 1.0], [1, 1]),
            "labels: expected some that differ, found a mean of 1.0",
        ),
        (
            lambda: calibration([0.0], [1, 0]),
            r"labels: expected shape \[N\] as the logits', found \[2\] and \[1\]",
        ),
        (lambda: fit_platt([0.0, 1.0], [0, 0]), "labels: expected some that differ, .* 0.0"),
        (lambda: undo_downsampling(0.0, 0.0), r"kept: expected a share in \(0, 1\], found 0.0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
