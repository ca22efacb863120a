"""A small parent for each process of several: one line instead of a stack where a peer is lost.

jax ends a process whose peers are gone by an abort, with a stack of C++ frames. So the command runs
in a child; the parent passes signals on, and says in a line of its own how the child ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

import jax

from experiments.harness.interrupts import SIGNALS

_LIFELINE = "EXPERIMENTS_LIFELINE"  # a pipe that ends with the parent
_LOG = re.compile(r"[EFIW]\d{4} \d\d:\d\d:\d\d|\*\*\* |\s+@ +0x")  # of the C++ runtime
_LOST = re.compile(r"gloo|nccl|coordination|distributed service|heartbeat|peer", re.IGNORECASE)
_STATUS = re.compile(r"[A-Z_]+: ")
LOST = "another process of the run is gone or does not answer"
AGAIN = "start all processes again with --resume and the run folder"


def is_child() -> bool:
    """Say whether this process has such a parent."""
    return _LIFELINE in os.environ


def run_child(experiment: str, argv: Sequence[str]) -> int:
    """Run a command in a child and return its exit code, 1 where a signal ended it.

    Args:
        experiment: the command's name, its task behind it.
        argv: its arguments.
    """
    module, *task = experiment.split()
    told, lifeline = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", f"experiments.{module}", *task, *argv],
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        pass_fds=(told,),
        env={**os.environ, _LIFELINE: str(told)},
        start_new_session=True,  # or Ctrl-C would reach it twice, and abort
    )
    os.close(told)
    held: list[str] = []
    with _passing_signals_on(child):
        assert child.stderr is not None
        for line in child.stderr:
            if held or _LOG.match(line):
                held.append(line)
            else:
                print(line, end="", file=sys.stderr, flush=True)
        code = child.wait()
    os.close(lifeline)
    if code >= 0:
        return code
    name = signal.Signals(-code).name
    if _LOST.search("".join(held)):
        print(f"error: {LOST}; {AGAIN}", file=sys.stderr)
    else:
        print("".join(held), end="", file=sys.stderr)
        print(f"error: this process was ended by {name}; {AGAIN}", file=sys.stderr)
    return 1


@contextlib.contextmanager
def _passing_signals_on(child: subprocess.Popen) -> Iterator[None]:
    def pass_on(number: int, frame: object) -> None:
        del frame
        child.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ending_with_others() -> Iterator[None]:
    """End this child with its parent, and in one line where a peer is lost in the middle."""
    threading.Thread(
        target=_end_with_parent, args=(int(os.environ[_LIFELINE]),), daemon=True
    ).start()
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not tells_of_a_lost_peer(error):
            raise
        print(f"error: {LOST}; {AGAIN}", file=sys.stderr, flush=True)
        os._exit(1)  # a shutdown in order would wait for the others


def tells_of_a_lost_peer(error: Exception) -> bool:
    """Say whether jax's runtime raised an error since a collective found a peer gone.

    It does as `JaxRuntimeError` or, from a gather of host values, as a ValueError that begins with
    a status such as "UNKNOWN: ".
    """
    text = str(error)
    of_runtime = isinstance(error, jax.errors.JaxRuntimeError) or _STATUS.match(text)
    return bool(of_runtime and _LOST.search(text))


def _end_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)  # nothing ever comes
    os._exit(1)
