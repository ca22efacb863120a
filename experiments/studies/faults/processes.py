"""Processes that faults are done to: started, watched and ended, with what they said and when."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

LONGEST = 600.0  # seconds that anything may take before the process counts as one that hangs
_POLL = 0.004

# Root may write what nobody may: without this right (CAP_DAC_OVERRIDE) modes bind it too.
_WITHOUT_RIGHTS = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
      code: its exit code, -N where signal N ended it; None where it did not end and was killed.
      errors: what it wrote to stderr.
      at: `time.monotonic()` of its end.
      spoke: of its first line on stderr; None where there is none.
    """

    code: int | None
    errors: str
    at: float
    spoke: float | None

    @property
    def refused(self) -> bool:
        """Whether it said why in one line, with exit code 2."""
        lines = self.errors.splitlines()
        return self.code == 2 and len(lines) == 1 and lines[0].startswith("error: ")


class Started:
    """A process at work; a thread reads what it says."""

    def __init__(
        self, words: Sequence[str], *, environment: Mapping[str, str], bound: bool = False
    ) -> None:
        """Start Python.

        Args:
          words: behind the interpreter.
          environment: added to that of this process.
          bound: whether the modes of files bind it even where it is root's.
        """
        first = ("-S", "-E", "-c", _WITHOUT_RIGHTS) if bound else ()
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, *first, *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, **environment},
        )
        self._said: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        _started.add(self)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._said.append((time.monotonic(), line))

    def wait_until(self, seen: Callable[[], bool]) -> bool:
        """Look again and again; return False where the process ends before it is so."""
        deadline = time.monotonic() + LONGEST
        while not seen():
            if self.process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        return True

    def kill(self) -> None:
        """Kill it, and first the process that it supervises, which may have been stopped."""
        if self.process.poll() is None:
            with contextlib.suppress(OSError, IndexError):  # it has none, or has just ended
                os.kill(child_of(self.process), signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        self._close()

    def _close(self) -> None:
        self._reader.join(5.0)
        if not self._reader.is_alive():  # a child that is left may hold the pipe
            assert self.process.stderr is not None
            self.process.stderr.close()

    def end(self, seconds: float = LONGEST) -> Ended:
        """Wait for its end; kill it where that does not come."""
        try:
            code: int | None = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            code = None
        at = time.monotonic()
        self._close()
        spoke = self._said[0][0] if self._said else None
        return Ended(code, "".join(line for _, line in self._said), at, spoke)


_started: weakref.WeakSet[Started] = weakref.WeakSet()


@contextlib.contextmanager
def ending_all() -> Iterator[None]:
    """End what is still at work behind the block, also where Ctrl-C or SIGTERM end this process."""

    def leave(number: int, frame: object) -> None:
        del frame
        sys.exit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        for each in set(_started):
            each.kill()
        signal.signal(signal.SIGTERM, previous)


def free_port() -> int:
    """Find a port of this host that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def child_of(process: subprocess.Popen) -> int:
    """Return the number of the process that a supervisor runs."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return int(found.split()[0])
