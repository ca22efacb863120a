"""Damage to files, drawn by a seed: cut, changed by a bit, missing, exchanged, too many."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np

BYTES = ("cut", "flip", "gone", "zero", "long", "empty")
FILES = ("swap", "own", "more")


@dataclasses.dataclass(frozen=True)
class Damage:
    """One file, what it held, and what was done to it."""

    file: Path
    before: bytes
    kind: str


def files_of(folder: Path) -> list[Path]:
    """List the files below a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def damage_folder(folder: Path, draw: np.random.Generator, *, other: Path) -> Damage:
    """Damage one file of a checkpoint.

    Args:
      folder: of the checkpoint.
      draw: says which file and how.
      other: another checkpoint, whose file may come in the place of one of this one.
    """
    file = _one_of(files_of(folder), draw)
    kind = str(draw.choice((*BYTES, *FILES)))
    if kind in BYTES:
        return damage_file(file, draw, kind=kind)
    before = file.read_bytes()
    if kind == "swap":
        same = other / file.relative_to(folder)
        shutil.copyfile(same if same.exists() else _one_of(files_of(other), draw), file)
    elif kind == "own":  # with another file of its own
        others = [each for each in files_of(folder) if each != file]
        shutil.copyfile(_one_of(others, draw), file)
    else:
        shutil.copyfile(file, file.with_name(f"{file.name}{draw.integers(10)}"))
    return Damage(file, before, kind)


def damage_file(file: Path, draw: np.random.Generator, *, kind: str) -> Damage:
    """Damage a file that is not empty in one of the ways of `BYTES`."""
    whole = file.read_bytes()
    place = int(draw.integers(len(whole)))
    if kind == "gone":
        file.unlink()
        return Damage(file, whole, kind)
    file.write_bytes(
        {
            "cut": whole[:place],
            "flip": flipped(whole, place, int(draw.integers(8))),
            "zero": whole[:place] + bytes(len(whole) - place),
            "long": whole + bytes([draw.integers(256)]),
            "empty": b"",
        }[kind]
    )
    return Damage(file, whole, kind)


def flipped(whole: bytes, place: int, bit: int) -> bytes:
    """Change one bit."""
    return whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]


def _one_of(files: list[Path], draw: np.random.Generator) -> Path:
    return files[draw.integers(len(files))]
