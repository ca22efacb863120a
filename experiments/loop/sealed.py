"""A folder whose every file has a digest: what was changed since is refused by name.

`seal` writes digests.json into a folder that is otherwise complete:

    {"name": "adamw/12", "files": {"record/metadata": SHA-256, ...}}

and behind it a line with the SHA-256 of that line. `check` reads every file again. The name says
whose files these are: a whole folder in the place of another is refused too.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

from experiments.harness.errors import bad_input, shown

SEAL = "digests.json"


def seal(folder: Path, *, name: str) -> None:
    """Bring all files of a folder to the disk, then write their digests and bring them there.

    Raises:
        OSError: a file cannot be read or written.
    """
    digests = {}
    for path in _files(folder):
        with path.open("rb") as file:
            digests[_named(path, folder)] = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    with (folder / SEAL).open("wb") as file:
        file.write(_text(name, digests))
        file.flush()
        os.fsync(file.fileno())
    for path in (folder, *(each for each in folder.rglob("*") if each.is_dir())):
        flush_folder(path)


def check(folder: Path, *, name: str) -> None:
    """Compare a folder with its digests.

    Raises:
        InputError: a file is missing, too many or other than it was sealed; the first is named.
    """
    digests = _read(folder / SEAL, name=name)
    found = {_named(path, folder): path for path in _files(folder) if path != folder / SEAL}
    for file in sorted(digests.keys() - found.keys()):
        raise bad_input(folder / file, expected="a file as it was saved", found="no such file")
    for file in sorted(found.keys() - digests.keys()):
        raise bad_input(folder / file, expected="no file that was not saved", found="one")
    for file, path in found.items():
        if _digest_of(path) != digests[file]:
            raise bad_input(path, expected="the bytes that were saved", found="others")


def flush_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files(folder: Path) -> list[Path]:
    """Return all that is no folder, links to folders and pipes among it."""
    return sorted(p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())


def _named(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _text(name: str, digests: dict[str, str]) -> bytes:
    line = json.dumps({"name": name, "files": digests}) + "\n"
    return f"{line}{hashlib.sha256(line.encode()).hexdigest()}\n".encode()


def _read(path: Path, *, name: str) -> dict[str, str]:
    try:
        text = path.read_bytes()
    except OSError as error:
        found = (error.strerror or "nothing").lower()
        raise bad_input(path, expected="the digests of a checkpoint", found=found) from error
    try:
        saved = json.loads(text.splitlines()[0])
        whole = _text(saved["name"], saved["files"]) == text
    except (ValueError, TypeError, LookupError, RecursionError):
        saved, whole = {}, False
    if not whole:
        raise bad_input(path, expected="the digests that were saved", found="others")
    if saved["name"] != name:
        raise bad_input(path, expected=f"the digests of {name}", found=shown(saved["name"]))
    return saved["files"]


def _digest_of(path: Path) -> str | None:
    """Return a file's digest; None for what is no plain file or cannot be read."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # to open a pipe would wait for ever
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
