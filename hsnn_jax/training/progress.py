"""One line on a terminal that says how far a training is."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

_BETWEEN = 0.2  # seconds between two changes of the line
_CLEAR = "\r\x1b[2K"


@contextlib.contextmanager
def shown(wanted: bool | None, *, total: int) -> Iterator[Callable[[int, str], None]]:
    """Give what shows the steps taken and a text, cheap enough to call at every step.

    Args:
      wanted: False for no line; else there is one where stderr is a terminal.
      total: steps in all.
    """
    if wanted is False or not sys.stderr.isatty():
        yield lambda step, text: None
        return
    start, last = time.monotonic(), -_BETWEEN

    def show(step: int, text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _BETWEEN or step == total:
            last = now
            left = (now - start) / max(step, 1) * (total - step)
            sys.stderr.write(f"{_CLEAR}step {step} of {total}  {text}  {left:.0f} s left")
            sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\n")
        sys.stderr.flush()
