"""Content vectors: unit rows, fitted on the training rows only, honest about missing content."""

import numpy as np
import pytest

from experiments.data.content import content_vectors
from experiments.data.interactions import Events, from_events


@pytest.mark.parametrize("rows", [np.array([3]), np.array([-1]), np.ones(4, bool), np.array([0.5])])
def test_bad_fit_rows(rows):
    with pytest.raises(ValueError, match=r"fit_rows: expected bool \[3\] or row numbers below 3"):
        content_vectors(record(texts={4: "a", 5: "b", 6: "c"}), rows)


def record(**fields):
    return from_events("x", "0", Events(np.array([1, 1, 1]), np.array([4, 5, 6]), **fields))


def test_content_vectors_takes_what_the_data_has():
    rows = np.arange(3)
    matrix = np.array([[3.0, 4.0], [0.0, 0.0]])
    vectors, has_content = content_vectors(record(content=({4: 0, 5: 1}, matrix)), rows)
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 0], [0, 0]], rtol=1e-6)
    assert has_content.tolist() == [True, False, False]
    vectors, has_content = content_vectors(record(texts={4: "red cup", 6: "cup"}), rows, dim=5)
    assert vectors.shape == (3, 5) and has_content.tolist() == [True, False, True]
    vectors, has_content = content_vectors(record(), rows, dim=5)
    assert vectors.shape == (3, 5) and not has_content.any()


def test_texts_outside_the_fit_do_not_change_it():
    texts = {4: "red cup", 5: "blue jug", 6: "red jug"}
    rows = np.array([True, True, False])
    before, _ = content_vectors(record(texts=texts), rows, dim=5)
    after, has = content_vectors(record(texts=texts | {6: "green cup"}), rows, dim=5)
    np.testing.assert_array_equal(before[:2], after[:2])
    np.testing.assert_array_equal(
        content_vectors(record(texts=texts), np.arange(2), dim=5)[0], before
    )
    assert has.all() and not content_vectors(record(texts=texts | {6: "green"}), rows)[1][2]
