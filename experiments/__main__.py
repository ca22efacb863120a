"""List the commands: `python -m experiments`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import experiments
from experiments.harness.study import Study


def all_studies() -> Iterator[Study]:
    """Find the study of every command, those of a command's tasks one after the other."""
    for module in pkgutil.iter_modules(experiments.__path__):
        if module.ispkg or module.name.startswith("_"):
            continue
        command = importlib.import_module(f"experiments.{module.name}")
        yield from getattr(command, "STUDIES", {}).values() or [command.STUDY]


def duration(minutes: float | None) -> str:
    """Write minutes for a reader."""
    if minutes is None:
        return "varies"
    return f"{60 * minutes:.0f} s" if minutes < 1 else f"{minutes:.0f} min"


def main() -> None:
    """Print a line for every command."""
    print("python -m experiments.COMMAND    about so long on 2 CPU cores: what it measures")
    print("(--help: its options; --preset smoke: seconds, to see that it runs)\n")
    for study in sorted(all_studies(), key=lambda study: study.name):
        print(f"  {study.name:<17} {duration(study.minutes):>6}  {study.about}")


if __name__ == "__main__":
    main()
