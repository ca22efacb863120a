"""The folder that a run leaves behind: config, metrics, summary, report and checkpoints.

    config.json     experiment, the arguments to start it again, the whole config, a digest
    metrics.jsonl   one line a logged step, appended
    summary.json    the final figures, see `SUMMARY_KEYS`
    report.md/.png  the same for a reader
    test-log.jsonl  one line a look at a test split
    checkpoints/    one folder a stage
    run.lock        held while a process is at work in the folder

Of several processes the first one writes. Every file but the two logs appears whole or not at all.
Only config.json, which starts the run
again on this machine, holds paths; the rest names data by `<its folder's name>` and a hash.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.harness.errors import InputError, bad_input, disk_error, shown
from experiments.harness.lock import FolderLock
from experiments.harness.options import (
    DIGEST,
    Options,
    WithLayout,
    check_empty,
    check_out,
    digest_of_config,
    read_config,
)
from experiments.harness.processes import decided_by_first
from experiments.harness.provenance import (
    DataName,
    command_line,
    config_dict,
    describe_devices,
    first_difference,
    versions,
)

SUMMARY_KEYS = (
    "experiment",
    "command",
    "config",
    "protocol",
    "metrics",
    "baselines",
    "seeds",
    "wall_seconds",
    "device",
    "versions",
)


class Run:
    """One open run folder; `open_run` makes it."""

    def __init__(
        self,
        folder: Path,
        *,
        experiment: str,
        arguments: Sequence[str],
        config: Mapping[str, Any],
        data: DataName | None = None,
        layout: str = "replicated",
        lock: FolderLock | None,
    ):
        """Open; without a `lock` another process writes, and this one only reads."""
        self.folder = folder
        self.layout = layout  # of parameters over the devices, see `loop.sharding.LAYOUTS`
        self._lock = lock
        self.experiment = experiment
        self.config = dict(config)
        self.command = command_line(experiment, arguments, data=data)
        self._metrics_path = folder / "metrics.jsonl"
        lines = read_metrics(self._metrics_path)
        if lock:
            _drop_torn_line(self._metrics_path)
        self._earlier_seconds = max((line["wall_seconds"] for line in lines), default=0.0)
        self._start = time.monotonic()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, *unused: object
    ) -> None:
        if self._lock:
            self._lock.release()
        if self._lock and isinstance(error, KeyboardInterrupt | SystemExit):
            print(f"stopped; continue with --resume {self.folder}", file=sys.stderr)
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(130)
        if isinstance(error, Exception) and not isinstance(error, InputError):
            reason = disk_error(error, folder=self.folder)
            if reason:
                raise InputError(f"{self.folder}: cannot be written ({reason})") from error

    @property
    def is_writer(self) -> bool:
        """Whether this process writes the folder's files."""
        return self._lock is not None

    @property
    def wall_seconds(self) -> float:
        """Seconds spent on this run so far, earlier sessions of a resumed run included."""
        return self._earlier_seconds + time.monotonic() - self._start

    def checkpoint_folder(self, stage: str) -> Path:
        """Return the folder of one stage's checkpoints, as an absolute path."""
        return (self.folder / "checkpoints" / stage).resolve()

    def log(self, stage: str, step: int, **values: float) -> None:
        """Append one line to metrics.jsonl; a value that is not finite is written as null."""
        if not self.is_writer:
            return
        line = {"stage": stage, "step": step, "wall_seconds": round(self.wall_seconds, 3)}
        text = json.dumps(line | {name: _finite(value) for name, value in values.items()})
        with self._metrics_path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def truncate_metrics(self, stage: str, *, after_step: int) -> None:
        """Drop the stage's lines beyond a step, so that a resumed run does not double them."""
        if not self.is_writer:
            return
        lines = read_metrics(self._metrics_path)
        kept = [line for line in lines if line["stage"] != stage or line["step"] <= after_step]
        if len(kept) < len(lines):
            _write_metrics(self._metrics_path, kept)

    def write_summary(
        self,
        *,
        protocol: Mapping[str, Any],
        metrics: Mapping[str, float | None],
        baselines: Mapping[str, float | None],
        seeds: Sequence[int],
        devices: Sequence[Any] | None = None,
    ) -> dict[str, Any]:
        """Write summary.json with exactly `SUMMARY_KEYS` and return it."""
        values = (
            self.experiment,
            self.command,
            self.config,
            dict(protocol),
            {name: _finite(value) for name, value in metrics.items()},
            {name: _finite(value) for name, value in baselines.items()},
            list(seeds),
            round(self.wall_seconds, 1),
            describe_devices(jax.devices() if devices is None else devices),
            versions(),
        )
        summary: dict[str, Any] = dict(zip(SUMMARY_KEYS, values, strict=True))
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        return summary


def open_run(
    experiment: str,
    options: Options,
    *,
    arguments: Sequence[str],
    data: DataName | None = None,
) -> Run:
    """Make a new run folder, or open the one that `options.resume` names.

    `arguments` are what `options.parse` returned beside the options: they start the run again.

    Raises:
        InputError: `--out` holds something already or cannot be written, `--resume` is no run
            folder, it is damaged, or its config differs in a field, which the message names; or
            another run is at work in the folder. Nothing is written.
    """
    config = config_dict(options, data=data)
    layout = options.layout if isinstance(options, WithLayout) else "replicated"
    how = {"experiment": experiment, "config": config, "data": data, "layout": layout}
    opened: list[Run] = []

    def open_here() -> tuple[str, Sequence[str]]:
        folder, lock, again = _open(experiment, options, arguments=arguments, config=config)
        opened.append(Run(folder, arguments=again, lock=lock, **how))
        return os.path.abspath(folder), again

    folder, again = decided_by_first(open_here)
    return opened[0] if opened else Run(Path(folder), arguments=again, lock=None, **how)


def _open(
    experiment: str, options: Options, *, arguments: Sequence[str], config: Mapping[str, Any]
) -> tuple[Path, FolderLock, Sequence[str]]:
    """Make or find the run folder; return it, its lock and the arguments to start it again."""
    if options.resume is not None:
        check_same_config(options.resume, experiment=experiment, config=config)
        folder = options.resume
        lock = FolderLock(folder, flag="--resume")
        arguments = _arguments_again(folder, keep=options.keep)
    else:
        folder = _new_folder(options.out, experiment=experiment)
        lock = FolderLock(folder, flag="--out")
        check_empty(folder)  # another may have come and gone before the lock
        saved = {"experiment": experiment, "arguments": list(arguments), "config": config}
        saved[DIGEST] = digest_of_config(saved)
        try:
            write_atomically(folder / "config.json", json.dumps(saved, indent=2) + "\n")
        except OSError as error:
            raise InputError(f"--out {folder}: cannot be written ({error.strerror})") from error
    return folder, lock, arguments


def _arguments_again(folder: Path, *, keep: str | None) -> list[str]:
    """Return a run's own arguments; a name to keep it by may have come later."""
    saved = list(read_config(folder)["arguments"])
    named = any(word == "--keep" or word.startswith("--keep=") for word in saved)
    return [*saved, "--keep", keep] if keep and not named else saved


def check_same_config(folder: Path, *, experiment: str, config: Mapping[str, Any]) -> None:
    """Raise InputError naming the field in which a run folder's config differs."""
    saved = read_config(folder)
    difference = first_difference(
        {"experiment": saved["experiment"], **saved["config"]},
        {"experiment": experiment, **json.loads(json.dumps(config))},
    )
    if difference:
        raise InputError(f"--resume {folder}: the config differs: {difference}")


def _new_folder(out: Path | None, *, experiment: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = out or Path("runs") / f"{experiment}-{stamp}"
    check_out(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be made ({error.strerror})") from error
    return folder


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a metrics.jsonl; a missing file has none.

    Raises:
        InputError: a line is not what `Run.log` writes; it is named.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # a torn line has no newline at its end
    return [_metrics_line(line, path, number) for number, line in enumerate(lines, start=1)]


def _metrics_line(text: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        line = json.loads(text, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        line = None
    kinds = {"stage": (str,), "step": (int,), "wall_seconds": (int, float)}
    if not isinstance(line, dict) or any(type(line.get(k)) not in kinds[k] for k in kinds):
        expected = "JSON with a stage, a step and wall_seconds"
        raise bad_input(path, expected=expected, found=shown(text), line=number)
    return line


def _drop_torn_line(path: Path) -> None:
    """Cut off what a kill left of a line; make the file where there is none."""
    with path.open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _write_metrics(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))


def write_atomically(path: Path, text: str) -> None:
    """Write a file such that a reader or a crash sees the old content or the new, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _finite(value: Any) -> float | int | None:
    if value is None:
        return None
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None
