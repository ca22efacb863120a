"""A text as codes."""

import numpy as np
import pytest

from experiments.data.characters import read_characters
from experiments.harness.errors import InputError


def test_the_end_of_the_text_is_held_out(tmp_path):
    path = tmp_path / "abc.txt"
    path.write_text("ab" * 90 + "c" * 10 + "d" * 10)
    text = read_characters(path, least=10)
    assert (text.name.name, text.vocabulary, text.size) == ("<abc>", 4, 200)
    np.testing.assert_array_equal(text.training, np.arange(180) % 2)
    np.testing.assert_array_equal(text.validation, np.full(10, 2))
    np.testing.assert_array_equal(text.test, np.full(10, 3))


def test_a_short_text_is_refused(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("too short")
    with pytest.raises(InputError, match="<short>: expected at least 200 characters, found 9 ch"):
        read_characters(path, least=10)


def test_without_a_file_the_text_is_python_source():
    text = read_characters(None, least=100)
    assert text.name.name == "<python-source>"
    assert text.size == 1_000_000
