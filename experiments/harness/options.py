"""The options that every experiment takes, and how they become a config.

An experiment extends `Options` by a frozen dataclass of its own and names a few presets of it:

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Digits(Options):
        width: int = 256

    PRESETS = {"default": Digits(), "smoke": Digits(preset="smoke", epochs=1)}
    options, arguments = parse("digits", PRESETS)

`--preset` chooses where the defaults come from, every other flag overrides one field. With
`--resume DIR` the arguments of that run come first, so that `--resume DIR` alone continues it; a
flag that contradicts them is refused when the run is opened.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import tyro

from experiments.harness.errors import InputError, bad_input


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Run an experiment."""

    data: Path | None = None
    """file or folder with the input; without it, the data that needs no download"""
    out: Path | None = None
    """new run folder (default: runs/EXPERIMENT-TIME)"""
    resume: Path | None = None
    """run folder to continue; its own arguments are used"""
    preset: str = "default"
    """named set of defaults that the other flags override"""
    epochs: int | None = None
    """passes over the training data (default: the experiment's own choice)"""
    seed: int = 0
    """seed of initial parameters, batches and dropout"""
    devices: int | None = None
    """number of devices (default: all; on CPU, as many fake devices)"""
    keep: str | None = None
    """name under docs/results that the summary and the report are kept as"""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("seed", 0), ("devices", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise bad_input(f"--{name}", expected=f"at least {least}", found=str(value))


Config = TypeVar("Config", bound=Options)


def parse(
    experiment: str, presets: Mapping[str, Config], argv: Sequence[str] | None = None
) -> tuple[Config, tuple[str, ...]]:
    """Parse the command line of an experiment.

    Returns the config and the arguments that give it again, without `--out` and `--resume`.

    Raises:
        InputError: an unknown preset, `--out` beside `--resume`, or a `--resume` folder without
            config. A flag that does not parse exits with code 2 by itself.
    """
    argv = sys.argv[1:] if argv is None else argv
    where, rest = _parse_where(experiment, argv)
    if where.resume and where.out:
        raise InputError("--out and --resume: expected one of them, found both")
    if where.out:
        check_out(where.out)
    arguments = [*(read_config(where.resume)["arguments"] if where.resume else ()), *rest]
    preset = _preset_parser(experiment).parse_known_args(arguments)[0].preset
    if preset not in presets:
        raise bad_input("--preset", expected=f"one of {', '.join(presets)}", found=preset)
    config = _parse_config(experiment, presets, preset=preset, arguments=arguments)
    return dataclasses.replace(config, out=where.out, resume=where.resume), tuple(arguments)


def _parse_where(experiment: str, argv: Sequence[str]) -> tuple[argparse.Namespace, Sequence[str]]:
    parser = _bare_parser(experiment)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", type=Path)
    return parser.parse_known_args(argv)


def _preset_parser(experiment: str) -> argparse.ArgumentParser:
    parser = _bare_parser(experiment)
    parser.add_argument("--preset", default="default")
    return parser


def _bare_parser(experiment: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(_program(experiment), add_help=False, allow_abbrev=False)


def _program(experiment: str) -> str:
    return f"python -m experiments.{experiment}"


def _parse_config(
    experiment: str, presets: Mapping[str, Config], *, preset: str, arguments: Sequence[str]
) -> Config:
    default = dataclasses.replace(presets[preset], preset=preset)
    return tyro.cli(
        type(default),
        default=default,
        args=arguments,
        prog=_program(experiment),
        description=f"{type(default).__doc__}\n\nPresets: {', '.join(presets)}",
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json of a run folder.

    Raises:
        InputError: the folder has none, or it is not the JSON that `open_run` writes.
    """
    path = folder / "config.json"
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return {name: saved[name] for name in ("experiment", "arguments", "config")}
    except OSError as error:
        raise InputError(f"--resume {folder}: expected a run folder, no {path} found") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected a run's config, found something else") from error


def check_out(folder: Path) -> None:
    """Raise InputError, early and without touching anything, where no new run can be written."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise bad_input(f"--out {folder}", expected="a writable folder", found=str(existing))
    if existing == folder and any(folder.iterdir()):
        raise bad_input(
            f"--out {folder}",
            expected="a new or empty folder (to continue a run: --resume)",
            found="files in it",
        )


def select_devices(count: int | None) -> list[jax.Device]:
    """Return the first `count` devices, all by default; on CPU make that many fake ones.

    Must run before anything else touches a device, because the number of CPU devices is fixed
    when jax starts its backends.

    Raises:
        InputError: there are fewer than `count` devices.
    """
    if count is not None and count > jax.config.jax_num_cpu_devices:
        with contextlib.suppress(RuntimeError):  # backends run already: what they have must do
            jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices()
    if count is not None and count > len(devices):
        kind = devices[0].platform.upper()
        raise bad_input("--devices", expected=f"at most {len(devices)} ({kind})", found=str(count))
    return devices[:count]
