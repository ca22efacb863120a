"""Moments at which a fault is done: each waits for a drawn one, and says whether it came."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.studies.faults.processes import Started
from experiments.studies.faults.site import Site
from experiments.studies.faults.small_run import EPOCHS, EVERY, PAUSE, STAGE, STEPS, TOTAL

Draw = np.random.Generator
Moment = Callable[[Site, Path, Started, Draw], bool]


def training(site: Site, folder: Path, started: Started, draw: Draw) -> bool:
    """Wait for a step, and for a part of the next one."""
    del site
    step = int(draw.integers(1, TOTAL - EVERY))
    return _wait(started, lambda: last_step(folder) >= step, draw.uniform(0.0, 2 * PAUSE))


def after_step(folder: Path, started: Started, step: int) -> bool:
    """Wait for a step."""
    return started.wait_until(lambda: last_step(folder) >= step)


def whole_life(site: Site, folder: Path, started: Started, draw: Draw) -> bool:
    """Wait for a step or, now and then, for the first files of the run folder alone."""
    if draw.random() > 0.1:
        return training(site, folder, started, draw)
    return _wait(started, (folder / "config.json").exists, draw.uniform(0.0, 2.0))


def saving(site: Site, folder: Path, started: Started, draw: Draw) -> bool:
    """Wait for a save behind a step, and for a part of it."""
    step = int(draw.integers(1, TOTAL - 2 * EVERY))
    if not after_step(folder, started, step):
        return False
    before = saves(folder)
    return _wait(started, lambda: saves(folder) - before != set(), draw.uniform(0.0, site.saving))


def evaluating(site: Site, folder: Path, started: Started, draw: Draw) -> bool:
    """Wait for the last step of an epoch, and for a part of the evaluation."""
    del site
    step = STEPS * int(draw.integers(1, EPOCHS))
    return _wait(started, lambda: last_step(folder) >= step, draw.uniform(0.0, 4 * PAUSE))


def last_step(folder: Path) -> int:
    """Return the last step in the log; looked at hundreds of times a second."""
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def saves(folder: Path) -> set[str]:
    """Name the folders that checkpoints are being written in."""
    checkpoints = folder / "checkpoints" / STAGE
    return {path.name for path in checkpoints.glob(".writing-*")}


def _wait(started: Started, seen: Callable[[], bool], more: float) -> bool:
    came = started.wait_until(seen)
    time.sleep(more)
    return came
