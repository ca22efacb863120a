"""Other processes: one that wants the same folder, and one of a pair that is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from experiments.harness.supervise import AGAIN, LOST
from experiments.studies.faults.moments import Draw, after_step, training
from experiments.studies.faults.processes import child_of
from experiments.studies.faults.site import Site, Trial, broken, log_of
from experiments.studies.faults.small_run import STEPS

_LONG = 0.4  # seconds before a batch: the first is still at work when the second has started


def crowded(site: Site, draw: Draw) -> Trial:
    """Start a second process in the folder: it is refused, and the first one ends as ever."""
    folder = site.new()
    first = site.start(folder, "--pause", str(_LONG))
    if not after_step(folder, first, int(draw.integers(1, STEPS))):
        return broken("it ended before the second came", first.end())
    second = site.start(folder, resume=bool(draw.integers(2)))
    refused = second.end()
    before, ended = log_of(folder), first.end()
    if not refused.refused or f"process {first.process.pid} at work" not in refused.errors:
        return broken("the second is not refused", refused)
    if ended.code != 0:
        return broken("the first one suffers", ended)
    return site.judged(folder, before=before, seconds=refused.at - second.began)


def bereft(site: Site, draw: Draw, *, lost: int, number: signal.Signals) -> Trial:
    """Kill or stop one of two processes: the other ends in one line, and both go on."""
    folder = site.new()
    pair = site.start_all(folder, processes=2)
    if not training(site, folder, pair[1 - lost], draw):
        return broken("it ended before a process was lost", pair[1 - lost].end())
    child = child_of(pair[lost].process)
    os.kill(child, number)
    since = time.monotonic()
    ended = pair[1 - lost].end()
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)  # one that is stopped stays
    pair[lost].end()
    if ended.code != 1 or ended.errors != f"error: {LOST}; {AGAIN}\n":
        return broken("no line with exit code 1", ended)
    return site.finish(folder, seconds=ended.at - since, processes=2)
