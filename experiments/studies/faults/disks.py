"""Disks that take no more: without room, read-only, or gone with the run folder."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.studies.faults.moments import Draw, Moment
from experiments.studies.faults.processes import Started
from experiments.studies.faults.site import Site, Trial, broken

Failing = Callable[[Path, Started, Draw], contextlib.AbstractContextManager]
_LARGEST = 2000  # bytes; a save has larger files, and so has a log of many lines


def failing(site: Site, draw: Draw, *, disk: Failing, moment: Moment) -> Trial:
    """Let the disk fail at a moment: the run ends in one line, and resumes when it is back."""
    folder = site.new()
    started = site.start(folder, bound=True)
    if not moment(site, folder, started, draw):
        return broken("it ended before the disk failed", started.end())
    with disk(folder, started, draw):
        since = time.monotonic()
        ended = started.end()
        again = folder.exists()
    if again == (disk is vanished):
        return broken("a folder that had vanished is there again, or another has vanished", ended)
    if not ended.refused:
        return broken("no line with exit code 2", ended)
    return site.finish(folder, seconds=ended.at - since)


@contextlib.contextmanager
def full(folder: Path, started: Started, draw: Draw) -> Iterator[None]:
    """Limit the size of its files as a full disk would: without root's rights."""
    del folder
    _, hard = resource.prlimit(started.process.pid, resource.RLIMIT_FSIZE)
    limit = int(draw.integers(_LARGEST))
    resource.prlimit(started.process.pid, resource.RLIMIT_FSIZE, (limit, hard))
    yield


@contextlib.contextmanager
def read_only(folder: Path, started: Started, draw: Draw) -> Iterator[None]:
    """Take the right to write from all that lies in the folder."""
    del started, draw
    _change_modes(folder, 0o500, 0o400)
    try:
        yield
    finally:
        _change_modes(folder, 0o700, 0o600)


@contextlib.contextmanager
def vanished(folder: Path, started: Started, draw: Draw) -> Iterator[None]:
    """Take the folder away, and bring it back where there is no other."""
    del started, draw
    elsewhere = folder.with_name("elsewhere")
    folder.rename(elsewhere)
    yield
    if not folder.exists():
        elsewhere.rename(folder)


def _change_modes(folder: Path, folders: int, files: int) -> None:
    for path in (folder, *folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # a save goes on
            path.chmod(folders if path.is_dir() else files)
