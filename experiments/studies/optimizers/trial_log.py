"""What trials ended at, as lines of a file: a later run by the same settings takes them from it.

The file is trials.jsonl of the run folder. Its first line says by which settings and versions the
trials were trained, every other one is a trial:

    {"settings": {"experiment": ..., "steps": 1440, ...}, "versions": {"jax": ..., ...}}
    {"optimizer": "sgd", "seed": 97, "coordinates": [0.25, ...], "loss": 0.93}
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.harness.errors import InputError, bad_input, shown
from experiments.harness.processes import decided_by_first, is_first
from experiments.harness.provenance import first_difference, versions
from experiments.harness.run_folder import Run, write_atomically

FILE = "trials.jsonl"
# What a trial does not depend on: who else is compared, and what comes after the trials.
_NOT_OF_A_TRIAL = {
    *("preset", "trials", "trial_seed", "finalists", "optimizers", "trials_from"),
    *("seed", "seeds", "turns", "axes", "directions"),
}
Key = tuple[str, int, tuple[float, ...]]  # optimizer, seed, coordinates


@dataclasses.dataclass(frozen=True, eq=False)
class TrialLog:
    """The losses of trials that are known, in a file and in memory.

    Attributes:
      path: of the file that is written.
      first_line: settings and versions of all trials.
      losses: validation loss at the end of each trial.
    """

    path: Path
    first_line: Mapping[str, Any]
    losses: dict[Key, float]

    def loss(self, name: str, coordinates: np.ndarray, *, seed: int) -> float | None:
        """Return what a trial ended at, None where it is not known."""
        return self.losses.get(_key(name, coordinates, seed))

    def add(self, name: str, coordinates: np.ndarray, *, seed: int, loss: float) -> None:
        """Note what a trial ended at."""
        key = _key(name, coordinates, seed)
        if self.losses.get(key) != loss:
            self.losses[key] = loss
            self.write()

    def write(self) -> None:
        """Write the file, whole; the first of several processes does."""
        lines = [self.first_line]
        for (name, seed, coordinates), loss in self.losses.items():
            trial = {"optimizer": name, "seed": seed, "coordinates": coordinates, "loss": loss}
            lines.append(trial)
        if is_first():
            write_atomically(self.path, "".join(f"{json.dumps(line)}\n" for line in lines))


def open_trial_log(run: Run, earlier: Sequence[Path] = ()) -> TrialLog:
    """Open a run's own log, with the trials of others' beside what it holds.

    Args:
      run: the open run.
      earlier: files of other runs.

    Raises:
      InputError: a file that cannot be read, or trials by other settings or versions.
    """
    settings = {k: v for k, v in run.config.items() if k not in _NOT_OF_A_TRIAL}
    own = run.folder / FILE
    first_line = {
        "settings": {"experiment": run.experiment, **settings},
        "versions": versions(),
    }
    paths = [*earlier, *([own] if decided_by_first(own.exists) else [])]
    losses: dict[Key, float] = {}
    for path in paths:
        losses |= _read(path, first_line)
    return TrialLog(own, first_line, losses)


def _key(name: str, coordinates: np.ndarray, seed: int) -> Key:
    return name, seed, tuple(coordinates.tolist())


def _read(path: Path, first_line: Mapping[str, Any]) -> dict[Key, float]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path}: expected a {FILE} of an earlier run, found none") from error
    found = _parsed(lines[0] if lines else b"", path, 1)
    difference = first_difference(found, first_line)
    if difference:
        expected = "trials by this run's settings and versions"
        raise bad_input(path, expected=expected, found=difference, line=1)
    trials = (_trial(line, path, number) for number, line in enumerate(lines[1:], start=2))
    return dict(trials)


def _trial(line: bytes, path: Path, number: int) -> tuple[Key, float]:
    trial = _parsed(line, path, number)
    try:
        name, seed, loss = trial["optimizer"], trial["seed"], float(trial["loss"])
        coordinates = tuple(float(x) for x in trial["coordinates"])
        if isinstance(name, str) and type(seed) is int and math.isfinite(loss):
            return (name, seed, coordinates), loss
    except (KeyError, TypeError, ValueError):
        pass
    expected = "an optimizer, a seed, coordinates and a finite loss"
    raise bad_input(path, expected=expected, found=shown(line), line=number)


def _parsed(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise bad_input(path, expected="a JSON object", found=shown(line), line=number)
    return found
