"""Stop at the next safe point on Ctrl-C or SIGTERM; a second signal aborts at once.

Python runs a signal's handler in the main thread, between two of its own instructions: not while
XLA compiles, which can take minutes. Then a thread that the system tells of the signal ends the
process, for there is nothing to save.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
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
        self._last_words: str | None = None  # said by the thread, which then ends the process
        self._close_watch = contextlib.ExitStack()

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
            self._start_watch()
        return self

    def __exit__(self, kind: type[BaseException] | None, *unused: object) -> None:
        self._close_watch.close()
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

    @contextlib.contextmanager
    def leaving_at_once(self, last_words: str) -> Iterator[None]:
        """End the process by the first signal while the context is open, saying `last_words`.

        Raises:
            SystemExit: there was a signal before.
        """
        self._last_words = last_words
        try:
            if self.exit_code is not None:
                raise SystemExit(self.exit_code)
            yield
        finally:
            self._last_words = None

    def _start_watch(self) -> None:
        told, tell = os.pipe()
        os.set_blocking(tell, False)
        before = signal.set_wakeup_fd(tell)
        thread = threading.Thread(target=self._watch, args=(told,), daemon=True)
        thread.start()
        # Undone from the last one to the first: the thread ends when the pipe does.
        self._close_watch.callback(os.close, told)
        self._close_watch.callback(thread.join)
        self._close_watch.callback(os.close, tell)
        self._close_watch.callback(signal.set_wakeup_fd, before)

    def _watch(self, told: int) -> None:
        while number := os.read(told, 1):
            if self._last_words is not None and number[0] in SIGNALS:
                print(self._last_words, file=sys.stderr, flush=True)
                os._exit(128 + number[0])

    @property
    def exit_code(self) -> int | None:
        """128 + the signal's number (Ctrl-C 130, SIGTERM 143), or None while there is none."""
        return None if self._received is None else 128 + self._received
