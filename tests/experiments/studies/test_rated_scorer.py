"""Negatives of the scorers of rated events."""

import jax
import numpy as np

from experiments.studies.rated_scorer import Scorer, ScorersConfig, model_config


def test_negatives_are_drawn_as_often_as_the_loss_is_told(examples):
    scorer = Scorer(model_config("XS", examples), examples)
    config = ScorersConfig(negatives=200_000, popular=0.75)
    ids, log_expected = scorer.negatives(jax.random.key(0), config)
    odds = np.exp(log_expected) / np.exp(log_expected).sum()
    np.testing.assert_allclose(odds.sum(), 1, rtol=1e-5)
    drawn = np.bincount(ids, minlength=examples.num_items) / len(ids)
    np.testing.assert_allclose(drawn, odds, atol=6 * np.sqrt(odds.max() / len(ids)))
    assert odds.max() > 1.5 * odds.min()
