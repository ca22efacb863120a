"""What a trial counts, and what is a refusal."""

import pytest

from experiments.studies.faults.processes import Ended
from experiments.studies.faults.site import steps_again


def log(*times):
    lines = [{"step": n, "wall_seconds": at, "loss": 1.0} for n, at in enumerate(times, start=1)]
    return [*lines, {"step": len(times), "wall_seconds": 99.0, "val_loss": 1.0}]


def test_steps_that_were_logged_at_another_time_were_taken_again():
    before = log(0.1, 0.2, 0.3, 0.4)
    assert steps_again(before, before) == 0
    assert steps_again(before, log(0.1, 0.2, 0.5, 0.6, 0.7)) == 2
    assert steps_again(before, log(0.1, 0.2, 0.3)) == 1  # a line that is no more


@pytest.mark.parametrize(
    ("code", "errors", "refused"),
    [
        (2, "error: no room\n", True),
        (1, "error: no room\n", False),
        (2, "error: no room\nand more\n", False),
        (2, "Traceback\n", False),
        (2, "", False),
    ],
)
def test_a_refusal_is_one_line_with_exit_code_2(code, errors, refused):
    assert Ended(code, errors, 0.0, None).refused == refused
