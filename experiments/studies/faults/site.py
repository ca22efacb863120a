"""Where trials take place: how the small run is started there, resumed and compared."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from experiments.harness.lock import LOCK
from experiments.harness.run_folder import read_metrics
from experiments.studies.faults.processes import Ended, Started, free_port
from experiments.studies.faults.small_run import NAME

CACHE = "JAX_COMPILATION_CACHE_DIR"
MODULE = f"experiments.{NAME}"
_CLOCK = ("seconds", "wall_seconds")


@dataclasses.dataclass(frozen=True)
class Trial:
    """One fault, and what came of it.

    Attributes:
      ended: with the bits of a run that nothing happened to; refused in one line as promised; or
        neither.
      again: steps that were taken before the fault and had to be taken again; None where the run
        was not gone on with.
      seconds: from the fault to the end of the process, or until a damage was named; None where
        there was nothing to see.
      found: what was wrong, where it ended in neither.
    """

    ended: Literal["same bits", "refused", "neither"]
    again: int | None = None
    seconds: float | None = None
    found: str = ""


def broken(found: str, ended: Ended | None = None) -> Trial:
    """Say what is not as promised."""
    told = f" (exit code {ended.code}: {ended.errors.strip()[-600:]})" if ended else ""
    return Trial("neither", found=found + told)


@dataclasses.dataclass(frozen=True)
class Bits:
    """What a run ended with: the digest of its state, and its log without the clock."""

    state: str
    logged: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """A folder for trials.

    Attributes:
      folder: each trial has a folder in it, which goes where all was well.
      seed: of the small run.
      undisturbed: the bits of the run that nothing happens to.
      halted: the folder of a run that stopped in order, three quarters through.
      saving: seconds that a save of it takes.
    """

    folder: Path
    seed: int
    undisturbed: Bits
    halted: Path
    saving: float

    def new(self) -> Path:
        """Name a run folder that is not there yet."""
        return Path(tempfile.mkdtemp(prefix="trial-", dir=self.folder)) / "run"

    def start(self, folder: Path, *more: str, resume: bool = False, bound: bool = False) -> Started:
        """Start the small run, or go on with it."""
        how = {"seed": self.seed, "cache": self.folder / "compiled"}
        return start(folder, *more, resume=resume, bound=bound, **how)

    def start_all(self, folder: Path, *, processes: int, resume: bool = False) -> list[Started]:
        """Start it by one process with two devices or by two with one each, the first one first."""
        if processes == 1:
            return [self.start(folder, resume=resume)]
        where = ("--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", str(processes))
        numbers = map(str, range(processes))
        return [self.start(folder, *where, "--process-id", n, resume=resume) for n in numbers]

    def finish(self, folder: Path, *, seconds: float | None, processes: int = 1) -> Trial:
        """Resume a run, compare its bits, and count the steps that it took again."""
        before = log_of(folder)
        started = self.start_all(folder, processes=processes, resume=True)
        for ended in [each.end() for each in started]:
            if ended.code != 0:
                return broken("it does not go on", ended)
        return self.judged(folder, before=before, seconds=seconds)

    def judged(
        self,
        folder: Path,
        *,
        before: Sequence[dict[str, Any]],
        seconds: float | None,
        logs_too: bool = True,
    ) -> Trial:
        """Compare the bits of a run that has ended.

        Args:
          folder: its run folder.
          before: the lines of its log at the fault.
          seconds: until the fault was seen.
          logs_too: whether its log must be the same.
        """
        found = bits_of(folder)
        if found.state != self.undisturbed.state:
            return broken(f"another state, see {folder}")
        if logs_too and found.logged != self.undisturbed.logged:
            return broken(f"another log, see {folder}")
        again = steps_again(before, log_of(folder))
        return Trial("same bits", again=again, seconds=seconds)


def start(
    folder: Path,
    *more: str,
    seed: int,
    cache: Path,
    resume: bool = False,
    bound: bool = False,
) -> Started:
    """Start the small run in a process of its own, with two devices.

    Compiled programs are read from a folder, `cache` where the environment names none.
    """
    own = ("--resume",) if resume else ("--seed", str(seed), "--out")
    words = ("-m", MODULE, *own, str(folder), "--devices", "2", *more)
    return Started(words, environment={CACHE: os.environ.get(CACHE, str(cache))}, bound=bound)


def log_of(folder: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a log that a process may be writing."""
    return read_metrics(folder / "metrics.jsonl")


def bits_of(folder: Path) -> Bits:
    """Read what a run has ended with."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    lines = [{k: v for k, v in line.items() if k not in _CLOCK} for line in log_of(folder)]
    return Bits(summary["protocol"]["state"], lines)


def steps_again(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> int:
    """Count the steps of a log that were logged at another time later on."""
    first, last = (
        {line["step"]: line["wall_seconds"] for line in lines if "loss" in line}
        for lines in (before, after)
    )
    return sum(last.get(step) != at for step, at in first.items())


def tree_of(folder: Path) -> dict[str, bytes]:
    """Read all files of a run folder but its lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
