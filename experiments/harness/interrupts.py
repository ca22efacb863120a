"""Stop at the next safe point on Ctrl-C or SIGTERM; a second signal aborts at once."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Record the first signal while the context is open, for the loop to ask about.

    After the first signal both have the system's default action again, so that a second one ends
    the process. In a thread other than the main one signals cannot be caught and nothing changes.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *unused: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if kind is None and self.exit_code is not None:  # it came after the loop last asked
            raise SystemExit(self.exit_code)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._received = number
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        print("stopping after this step; a second signal aborts", file=sys.stderr, flush=True)

    @property
    def exit_code(self) -> int | None:
        """128 + the signal's number (Ctrl-C 130, SIGTERM 143), or None while there is none."""
        return None if self._received is None else 128 + self._received
