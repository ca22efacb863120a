"""Nothing that was started is left behind."""

import os
import signal
import time
from pathlib import Path

import pytest

from experiments.studies.faults.processes import Started, child_of, ending_all

SLEEPS = "import time; time.sleep(600)"
SUPERVISES = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{SLEEPS}'])"


@pytest.mark.parametrize("how", ["an error", "SIGTERM", "the end"])
def test_what_is_at_work_ends_with_the_block(how):
    before = signal.getsignal(signal.SIGTERM)
    expected = {"an error": ZeroDivisionError, "SIGTERM": SystemExit}.get(how)
    started = []

    def work():
        with ending_all():
            started.append(Started(("-c", SUPERVISES), environment={}))
            assert started[0].wait_until(lambda: has_child(started[0]))
            started.append(child_of(started[0].process))
            os.kill(started[1], signal.SIGSTOP)  # it would outlive all but a kill of its own
            if how == "an error":
                1 / 0  # noqa: B018
            if how == "SIGTERM":
                os.kill(os.getpid(), signal.SIGTERM)
                signal.sigtimedwait([], 5)

    if expected is None:
        work()
    else:
        with pytest.raises(expected) as error:
            work()
        assert how != "SIGTERM" or error.value.code == 143
    assert started[0].process.poll() == -signal.SIGKILL
    # A kill takes effect when the kernel comes to it; a zombie is nobody at work.
    until = time.monotonic() + 5
    while (left := state_of(started[1])) not in (None, "Z") and time.monotonic() < until:
        time.sleep(0.01)
    assert left in (None, "Z")
    assert signal.getsignal(signal.SIGTERM) is before


def has_child(started):
    try:
        return bool(child_of(started.process))
    except IndexError:
        return False


def state_of(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return None
