"""The options that commands take, and how they become a config.

A command extends `Options`, or what it needs of `WithData`, `WithLayout`, `OneSeed` and
`ManySeeds`, by a frozen dataclass of its own and names a few presets of it:

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Digits(ManySeeds):
        width: int = 256

    PRESETS = {"default": Digits(), "smoke": Digits(width=16)}
    options, arguments = parse("digits", PRESETS)

`--preset` chooses where the defaults come from, every other flag overrides one field. With
`--resume DIR` the arguments of that run come first, so that `--resume DIR` alone continues it; a
flag that contradicts them is refused when the run is opened. Where a run lies and which processes
it has is not among its arguments.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro

from experiments.harness.errors import InputError, bad_input, shown
from experiments.harness.lock import LOCK, check_free
from experiments.harness.processes import check_joining
from experiments.harness.provenance import config_hash

DIGEST = "digest"  # the name of that of config.json in it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Run a command."""

    out: Path | None = None
    """new run folder (default: runs/COMMAND-TIME)"""
    resume: Path | None = None
    """run folder to continue; its own arguments are used"""
    preset: str = "default"
    """named set of defaults that the other flags override"""
    devices: int | None = None
    """number of devices (default: all; on CPU, as many fake devices)"""
    keep: str | None = None
    """name under docs/results that the summary and the report are kept as"""
    compilation_cache: bool = True
    """read programs that earlier runs compiled from the user's cache folder"""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes that run this command together"""
    num_processes: int | None = None
    """how many processes"""
    process_id: int | None = None
    """which of them this one is, from 0"""
    distributed: bool = False
    """one of the processes that Slurm, Kubernetes or MPI started"""

    def __post_init__(self) -> None:
        check_least(self, devices=1, num_processes=1)
        check_joining(self)

    @property
    def all_seeds(self) -> range:
        """The seeds to run with; none where nothing is drawn."""
        return range(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithData(Options):
    """Run a command on data."""

    data: Path | None = None
    """file or folder with the input; without it, the data that needs no download"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithEvents(WithData):
    """Run a command on events of users with items."""

    columns: str | None = None
    """columns of a log that are not recognised, such as user=visitorid,item=itemid"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.columns is not None and self.data is None:
            raise InputError("--columns: expected --data beside it, found none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithLayout(Options):
    """Run a command that trains."""

    layout: Literal["replicated", "fsdp", "rows"] = "replicated"
    """parameters on every device, in shards (fsdp), or tables by rows"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneSeed(Options):
    """Run a command from one seed."""

    seed: int = 0
    """seed of initial parameters, batches and dropout"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, seed=0)

    @property
    def all_seeds(self) -> range:
        return range(self.seed, self.seed + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManySeeds(OneSeed):
    """Run a command from one or several seeds."""

    seeds: int = 1
    """number of seeds, from --seed on"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, seeds=1)

    @property
    def all_seeds(self) -> range:
        return range(self.seed, self.seed + self.seeds)


def check_least(options: Any, **least: float) -> None:
    """Raise InputError where a field is below a bound; None is a default to be chosen later."""
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and not value >= smallest:
            raise bad_input(flag_of(name), expected=f"at least {smallest}", found=str(value))


def check_above_zero(options: Any, *names: str) -> None:
    """Raise InputError where a field is not positive; None is a default to be chosen later."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise bad_input(flag_of(name), expected="a number above 0", found=str(value))


def flag_of(name: str) -> str:
    """Write a field's name as its flag: --learning-rate, or --group.learning-rate."""
    return f"--{name.replace('_', '-')}"


Config = TypeVar("Config", bound=Options)


def parse(
    command: str, presets: Mapping[str, Config], argv: Sequence[str] | None = None
) -> tuple[Config, tuple[str, ...]]:
    """Parse the command line of a command.

    Returns the config and the arguments that give it again, without those of `_parse_where`.

    Raises:
        InputError: an unknown preset, `--out` beside `--resume`, or a `--resume` folder without
            config. A flag that does not parse exits with code 2 by itself.
    """
    argv = sys.argv[1:] if argv is None else argv
    where, rest = _parse_where(command, argv)
    if where.resume and where.out:
        raise InputError("--out and --resume: expected one of them, found both")
    if where.out:
        check_out(where.out)
    arguments = [*(read_config(where.resume)["arguments"] if where.resume else ()), *rest]
    preset = _preset_parser(command).parse_known_args(arguments)[0].preset
    if preset not in presets:
        raise bad_input("--preset", expected=f"one of {', '.join(presets)}", found=preset)
    config = _parse_config(command, presets, preset=preset, arguments=arguments)
    return dataclasses.replace(config, **vars(where)), tuple(arguments)


def _parse_where(command: str, argv: Sequence[str]) -> tuple[argparse.Namespace, Sequence[str]]:
    parser = _bare_parser(command)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--coordinator")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    parser.add_argument("--distributed", action="store_true")
    return parser.parse_known_args(argv)


def _preset_parser(command: str) -> argparse.ArgumentParser:
    parser = _bare_parser(command)
    parser.add_argument("--preset", default="default")
    return parser


def _bare_parser(command: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(_program(command), add_help=False, allow_abbrev=False)


def _program(command: str) -> str:
    return f"python -m experiments.{command}"


def _parse_config(
    command: str, presets: Mapping[str, Config], *, preset: str, arguments: Sequence[str]
) -> Config:
    default = dataclasses.replace(presets[preset], preset=preset)
    return tyro.cli(
        type(default),
        default=default,
        args=arguments,
        prog=_program(command),
        description=f"{type(default).__doc__}\n\nPresets: {', '.join(presets)}",
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json of a run folder.

    Raises:
        InputError: the folder has none, or it is not the JSON that `open_run` writes. One without
            a digest, as earlier versions wrote it, is taken as it is.
    """
    path = folder / "config.json"
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--resume {folder}: expected a run folder, no {path} found") from error
    except json.JSONDecodeError as error:
        raise bad_input(path, expected="JSON", found=error.msg, line=error.lineno) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise bad_input(path, expected="JSON", found="something else", line=1) from error
    fields = {name: _field(saved, name, path) for name in ("experiment", "arguments", "config")}
    if saved.get(DIGEST) not in (None, digest_of_config(saved)):
        raise bad_input(path, expected="the config that was saved", found="another")
    return fields


def digest_of_config(saved: Mapping[str, Any]) -> str:
    """Hash all of config.json but its digest."""
    return config_hash({name: value for name, value in saved.items() if name != DIGEST})


def _field(saved: Any, name: str, path: Path) -> Any:
    """Return a field of config.json, checked for what a run is started again with."""
    value = saved.get(name) if isinstance(saved, dict) else None
    words = isinstance(value, list) and all(isinstance(word, str) for word in value)
    expected, right = {
        "experiment": ("a name", isinstance(value, str)),
        "arguments": ("a list of words", words),
        "config": ("a table of options", isinstance(value, dict)),
    }[name]
    if not right:
        raise bad_input(path, expected=f"{expected} under {name!r}", found=shown(repr(value)))
    return value


def check_out(folder: Path) -> None:
    """Raise InputError, early and without touching anything, where no new run can be written."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise bad_input(f"--out {folder}", expected="a writable folder", found=str(existing))
    if existing == folder:
        check_free(folder, flag="--out")
        check_empty(folder)


def check_empty(folder: Path) -> None:
    """Raise InputError where a new run's folder holds more than its lock."""
    if any(path.name != LOCK for path in folder.iterdir()):
        raise bad_input(
            f"--out {folder}",
            expected="a new or empty folder (to continue a run: --resume)",
            found="files in it",
        )
