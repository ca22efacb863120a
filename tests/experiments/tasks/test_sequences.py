"""Sequences as a task for optimizers: its batches by step, and its two figures."""

import itertools

import jax
import numpy as np
import pytest

import nxtpost_jax
from experiments.data.drawn import drawn_shop
from experiments.tasks.next_item import pose, score
from experiments.tasks.sequences import sequence_task


@pytest.fixture(scope="module")
def problem():
    return pose(drawn_shop(seed=0), content_dim=0)


@pytest.fixture(scope="module")
def task(problem):
    return sequence_task(problem, width=8, layers=1, length=8, batch_size=64)


def test_steps_go_on_through_the_passes(problem, task):
    per_pass = nxtpost_jax.steps_per_epoch(problem.split.train, max_len=8, batch_size=64)
    start = per_pass - 2
    across = list(task.batches(start, 4, 0))
    one_by_one = [next(iter(task.batches(step, 1, 0))) for step in range(start, start + 4)]
    for a, b in zip(across, one_by_one, strict=True):
        np.testing.assert_array_equal(a["items"], b["items"])
    whole = itertools.chain(*(task.batches(0, per_pass, seed) for seed in (0, 1)))
    first = {batch["items"].tobytes() for batch in whole}
    assert len(first) > per_pass  # another seed, another order


def test_the_loss_is_that_of_the_target_among_what_training_knows(problem, task):
    params = task.init_params(jax.random.key(0))
    queries = problem.split.validation
    model = nxtpost_jax.NxtPost(
        nxtpost_jax.NxtPostConfig.sasrec(
            d_model=8, num_layers=1, max_len=8, similarity="cosine", temperature=0.05
        ),
        num_items=problem.num_items,
    )
    vectors = nxtpost_jax.pad_histories(queries.histories, 8)
    scores = np.asarray(nxtpost_jax.model_scores(model, params)(vectors), np.float64)
    logits = scores[:, problem.candidates] / 0.05
    known = np.isin(queries.targets, problem.candidates)
    place = np.searchsorted(problem.candidates, queries.targets[known])
    own = logits[known][np.arange(known.sum()), place]
    expected = np.mean(np.log(np.exp(logits[known]).sum(axis=1)) - own)
    figures = task.validate(params)
    assert figures["loss"] == pytest.approx(expected, rel=1e-4)
    ranked = score(problem, model, params=params, queries=queries, bootstrap=0)
    assert figures["ndcg@10"] == pytest.approx(ranked["ndcg@10"])
