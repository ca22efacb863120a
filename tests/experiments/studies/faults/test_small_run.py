"""The run that faults are done to."""

import json

import pytest

from experiments.harness.errors import InputError
from experiments.studies.faults import small_run
from experiments.studies.faults.small_run import SmallRun


def state_of(folder, *words):
    small_run.main(["--out", str(folder), "--devices", "2", "--pause", "0", *words])
    return json.loads((folder / "summary.json").read_text())["protocol"]["state"]


@pytest.mark.long
def test_batches_of_nan_end_as_if_they_had_never_been(tmp_path):
    numbers = [str(number) for number in range(11, 19)]
    poisoned = state_of(tmp_path / "poisoned", "--poisoned", *numbers)
    assert poisoned == state_of(tmp_path / "without", "--without", *numbers)
    assert poisoned != state_of(tmp_path / "other", "--without", *map(str, range(8)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"without": (1, 2)}, "--without: expected a multiple of 8 batches, found 2"),
        ({"poisoned": (32,)}, "--poisoned: expected 0 to 31, found 32"),
        ({"pause": -1.0}, "--pause: expected at least 0.0, found -1.0"),
    ],
)
def test_options_that_are_none(options, message):
    with pytest.raises(InputError, match=message):
        SmallRun(**options)
