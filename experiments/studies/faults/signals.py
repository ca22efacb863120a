"""Signals to a run: killed at once, or asked to stop."""

from __future__ import annotations

import signal
import time

from experiments.studies.faults.moments import Draw, Moment
from experiments.studies.faults.site import Site, Trial, broken


def signalled(site: Site, draw: Draw, *, number: signal.Signals, moment: Moment) -> Trial:
    """Send a signal at a moment; the run resumes to the same bits."""
    folder = site.new()
    started = site.start(folder)
    if not moment(site, folder, started, draw):
        return broken("it ended before the signal", started.end())
    started.process.send_signal(number)
    since = time.monotonic()
    ended = started.end()
    promised = -number if number == signal.SIGKILL else 128 + number
    if ended.code != promised or "Traceback" in ended.errors:
        return broken(f"no exit code {promised} by {number.name}", ended)
    return site.finish(folder, seconds=ended.at - since)
