"""Classes of images: batches that step and seed decide, crops, and scores."""

import jax
import numpy as np
import pytest

from experiments.data.images import drawn_images
from experiments.models.resnet import ResNet
from experiments.tasks.images import Crops, centre, cutter, image_task, rows_of_steps

PIXELS = np.arange(4 * 6 * 6 * 2, dtype=np.uint8).reshape(4, 6, 6, 2)


def rows(**changes):
    given = {"first": 0, "count": 6, "seed": 0} | changes
    return [own for _, own in rows_of_steps(10, 3, **given)]


def test_a_pass_has_every_row_at_most_once_and_passes_differ():
    one, two = np.concatenate(rows()[:3]), np.concatenate(rows()[3:])
    assert len(set(one)) == len(set(two)) == 9
    assert list(one) != list(two)


def test_steps_know_nothing_of_where_the_count_begins():
    for a, b in zip(rows()[2:], rows(first=2, count=4), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(rows(), rows(seed=1)))


def test_training_sees_windows_of_the_image_and_their_mirror_images():
    cut, draw = cutter(Crops(side=4, flip=True)), np.random.default_rng(0)
    image = PIXELS[1]
    windows = [image[y : y + 4, x : x + 4] for y in range(3) for x in range(3)]
    possible = {w.tobytes() for own in windows for w in (own, own[:, ::-1])}
    seen = {pixels.tobytes() for pixels in cut(PIXELS, np.full(400, 1), draw)}
    assert seen == possible


def test_evaluation_sees_the_centre():
    np.testing.assert_array_equal(centre(PIXELS, 4), PIXELS[:, 1:5, 1:5])


@pytest.mark.parametrize("crops", [None, Crops(side=6, flip=True)])
def test_batches_and_scores_fit_the_network(crops):
    images = drawn_images(side=8, channels=3)
    task = image_task(images, model=ResNet(width=8), batch_size=16, crops=crops, intro="")
    (batch,) = task.batches(5, 1, 0)
    assert batch["images"].shape == (16, *((8, 8) if crops is None else (6, 6)), 3)
    params = task.init_params(jax.random.key(0))
    figures = task.validate(params)
    assert figures["loss"] == pytest.approx(task.chance, abs=1.0)
    logits_are_equal = jax.tree.map(np.zeros_like, params)
    assert task.validate(logits_are_equal)["loss"] == pytest.approx(np.log(10), rel=1e-6)
    assert task.test(logits_are_equal)["accuracy"] == pytest.approx(0.1)
