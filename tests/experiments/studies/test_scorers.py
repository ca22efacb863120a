"""NE as a mean over events, so that it is paired."""

import numpy as np
import pytest

from experiments.studies.rated_scorer import Scored
from experiments.studies.scorers import relative_losses
from hsnn_jax.monn.calibration import normalised_entropy


def test_the_mean_of_relative_losses_is_ne():
    rng = np.random.default_rng(0)
    labels = (rng.random(500) < 0.3).astype(np.float32)
    logits = rng.normal(size=500).astype(np.float32)
    losses = relative_losses(Scored(logits, labels, np.zeros(0)))
    assert losses.shape == (500,)
    assert losses.mean() == pytest.approx(normalised_entropy(logits, labels), rel=1e-5)
