"""The digits are those of experiments.digits."""

import numpy as np

from experiments.data.digits import digit_images
from experiments.digits import load_splits


def test_the_split_is_that_of_the_command():
    images = digit_images()
    parts = (images.training, images.validation, images.test)
    for part, split in zip(parts, load_splits(), strict=True):
        np.testing.assert_array_equal(part.images.reshape(-1, 64) / 16, split.images)
        np.testing.assert_array_equal(part.labels, split.labels)
