"""All kinds of faults, each tried a few times on runs of its own."""

from __future__ import annotations

import functools
import shutil
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.harness.remembered import remember
from experiments.harness.run_folder import Run
from experiments.studies.faults.figures import Tried
from experiments.studies.faults.kinds import Counts, Kind, Try, kinds
from experiments.studies.faults.moments import Draw, last_step, saves
from experiments.studies.faults.processes import Started, ending_all
from experiments.studies.faults.site import Site, Trial, bits_of, start
from experiments.studies.faults.small_run import TOTAL

_TEXTS, _NUMBERS = ("ended", "found"), ("again", "seconds")


def try_all(run: Run, *, counts: Counts, seed: int) -> Iterator[Tried]:
    """Try kind by kind; what an earlier session has tried is read from the run folder."""
    site: list[Site] = []
    folder = (run.folder / "faults").resolve()

    def tried(place: int, kind: Kind) -> dict[str, np.ndarray]:
        with ending_all():
            if not site:
                site.append(prepared(folder, seed=seed))
            draws = (np.random.default_rng([seed, place, each]) for each in range(kind.count))
            return _arrays([_tidy(site[0], kind.attempt, draw) for draw in draws])

    for place, kind in enumerate(kinds(counts)):
        measure = functools.partial(tried, place, kind)
        yield Tried(kind.name, _trials(remember(run, f"faults {kind.name}", measure=measure)))
    if site and not any(folder.glob("trial-*")):
        shutil.rmtree(folder)


def prepared(folder: Path, *, seed: int) -> Site:
    """Make a folder for trials, with the run that nothing happens to and one that stopped.

    Raises:
      RuntimeError: one of the two did not end as it should.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    begin = functools.partial(start, seed=seed, cache=folder / "compiled")
    whole, halted = folder / "undisturbed", folder / "halted"
    _check_code(begin(whole), 0)
    started = begin(halted)
    seconds = _seconds_of_a_save(halted, started, until=3 * TOTAL // 4)
    started.process.send_signal(signal.SIGTERM)
    _check_code(started, 143)
    return Site(folder, seed, bits_of(whole), halted, seconds)


def _check_code(started: Started, code: int) -> None:
    ended = started.end()
    if ended.code != code:
        raise RuntimeError(f"exit code {ended.code}, not {code}: {ended.errors}")


def _seconds_of_a_save(folder: Path, started: Started, *, until: int) -> float:
    """Watch a run up to a step; return the median of what its saves took."""
    seconds = []
    while started.wait_until(lambda: last_step(folder) >= until or bool(saves(folder))):
        if not saves(folder):
            break
        since = time.monotonic()
        started.wait_until(lambda: not saves(folder))
        seconds.append(time.monotonic() - since)
    return statistics.median(seconds)


def _tidy(site: Site, attempt: Try, draw: Draw) -> Trial:
    """Try once; what a trial leaves behind goes unless it has to be looked at."""
    before = set(site.folder.iterdir())
    trial = attempt(site, draw)
    if trial.ended != "neither":
        for left in set(site.folder.iterdir()) - before:
            shutil.rmtree(left)
    return trial


def _arrays(trials: Sequence[Trial]) -> dict[str, np.ndarray]:
    """Write trials as columns; NaN for None."""
    numbers = {name: np.array([getattr(t, name) for t in trials], float) for name in _NUMBERS}
    return {**numbers, **{name: np.array([getattr(t, name) for t in trials]) for name in _TEXTS}}


def _trials(arrays: dict[str, np.ndarray]) -> list[Trial]:
    """Read what `_arrays` wrote."""
    rows = zip(*(arrays[name].tolist() for name in (*_TEXTS, *_NUMBERS)))
    return [
        Trial(ended, found=found, again=_kept(again, int), seconds=_kept(seconds, float))
        for ended, found, again, seconds in rows
    ]


def _kept(value: float, kind: type) -> Any:
    return None if np.isnan(value) else kind(value)
