"""One process per run folder: a lock that the system drops when the process ends, in any way."""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
from pathlib import Path

from experiments.harness.errors import InputError, bad_input

LOCK = "run.lock"


class FolderLock:
    """The lock of a folder, held until `release` or the end of the process.

    The file stays behind: removing it could let two processes lock two files of one name.

    Raises:
        InputError: another run holds it, whose process is named; or the folder cannot be written.
    """

    def __init__(self, folder: Path, *, flag: str) -> None:
        path = folder / LOCK
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
            self.release = weakref.finalize(self, os.close, handle)
            if not _locked(handle, fcntl.LOCK_EX):
                raise _taken(folder, handle, flag=flag)
            path.write_text(str(os.getpid()))
        except OSError as error:
            raise bad_input(
                f"{flag} {folder}",
                expected="a folder that can be written",
                found=os.strerror(error.errno or errno.EIO).lower(),
            ) from error


def check_free(folder: Path, *, flag: str) -> None:
    """Raise InputError where a run is at work in the folder; nothing is written."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return
    try:
        if not _locked(handle, fcntl.LOCK_SH):
            raise _taken(folder, handle, flag=flag)
    finally:
        os.close(handle)


def _taken(folder: Path, handle: int, *, flag: str) -> InputError:
    holder = os.read(handle, 20).decode("ascii", "replace") or "(starting)"
    found = f"process {holder} at work in it"
    return bad_input(f"{flag} {folder}", expected="a folder of no other run", found=found)


def _locked(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
