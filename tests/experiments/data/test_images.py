"""Images in three parts."""

import numpy as np

from experiments.data.images import drawn_images, hold_out, mnist_images, padded
from experiments.data.mnist import Mnist


def test_the_last_images_of_every_class_are_held_out():
    held = hold_out(np.array([0, 1, 0, 1, 0, 1, 1]), per_class=2)
    np.testing.assert_array_equal(np.flatnonzero(held), [2, 4, 5, 6])


def test_mnist_is_split_and_has_a_channel():
    labels = np.arange(6, dtype=np.uint8) % 2
    pixels = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2)
    images = mnist_images(Mnist(pixels, labels, pixels, labels), name="<m>", per_class=1)
    assert images.validation.images.shape == (2, 2, 2, 1)
    np.testing.assert_array_equal(images.validation.images[..., 0], pixels[4:])
    np.testing.assert_array_equal(images.training.labels, [0, 1, 0, 1])
    np.testing.assert_array_equal(images.test.images[..., 0], pixels)


def test_a_frame_is_black_and_its_inside_the_image():
    images = drawn_images(side=4, channels=1)
    framed = padded(images, by=1)
    np.testing.assert_array_equal(framed.test.images[:, 1:5, 1:5], images.test.images)
    assert framed.test.images.sum() == images.test.images.sum()
    np.testing.assert_array_equal(framed.training.labels, images.training.labels)
