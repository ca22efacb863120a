"""A student hears what the teacher says of drawn items."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.studies.rated_scorer import Scorer, ScorersConfig, model_config
from experiments.studies.tables.brute import Trained
from experiments.studies.tables.distilled import distilling_loss
from hsnn_jax.monn.network import init_monn


@pytest.fixture(scope="module")
def measured(examples):
    """The loss of students at the teacher's parameters and at others, by weight."""
    small = dataclasses.replace(model_config("XS", examples), width=4)
    student = Scorer(small, examples)
    params, others = (init_monn(jax.random.key(seed), small) for seed in (0, 1))
    config = ScorersConfig(negatives=32)
    rows = np.concatenate([examples.rows(0)[:8], examples.liked(0)[:8]])
    batch = examples.histories(rows) | {
        "items": examples.items[rows],
        "labels": examples.labels[rows],
    }

    def loss(of, weight):
        teacher = Trained("XS", 0, student, params)
        function = distilling_loss(student, teacher, weight=weight, config=config)
        value, scalars = jax.jit(function)(of, batch, jax.random.key(2))
        return float(value), float(scalars["distance"])

    return {
        (who, w): loss(of, w) for who, of in (("own", params), ("other", others)) for w in (1, 3)
    }


def test_the_distance_is_least_where_the_student_is_the_teacher(measured):
    assert measured["own", 1][1] < measured["other", 1][1]
    assert 0 < measured["own", 1][1] <= np.log(32) + 1e-5  # an entropy of 32 items


def test_the_weight_is_that_of_the_distance(measured):
    for who in ("own", "other"):
        (one, distance), (three, same) = measured[who, 1], measured[who, 3]
        assert same == pytest.approx(distance, rel=1e-5)
        assert three - one == pytest.approx(2 * distance, rel=1e-4)
