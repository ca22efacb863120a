"""Next characters: what batches are drawn by, and what a prediction may see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.characters import Text
from experiments.harness.provenance import DataName
from experiments.tasks.characters import character_task

CODES = np.arange(400, dtype=np.int32) % 7


def pose(**changes):
    text = Text(DataName("<t>", "0"), 7, CODES, CODES[:100], CODES[:80])
    sizes = {"width": 8, "layers": 1, "length": 6, "batch_size": 4}
    return character_task(text, **sizes | changes)


def test_batches_are_a_function_of_seed_and_step():
    task = pose()
    two, (again,) = list(task.batches(3, 2, 0)), task.batches(4, 1, 0)
    np.testing.assert_array_equal(two[1]["inputs"], again["inputs"])
    np.testing.assert_array_equal((two[0]["inputs"] + 1) % 7, two[0]["labels"])
    (other,) = task.batches(4, 1, 1)
    assert not np.array_equal(again["inputs"], other["inputs"])


def test_a_model_whose_logits_are_equal_is_at_chance():
    task = pose()
    params = jax.tree.map(jnp.zeros_like, task.init_params(jax.random.key(0)))
    assert task.validate(params)["loss"] == pytest.approx(task.chance, rel=1e-5)
    assert task.test(params)["loss"] == pytest.approx(np.log(7), rel=1e-5)
