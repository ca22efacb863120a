"""A folder of a JSON header and an .npz of arrays, written whole or not at all.

Both files carry a digest: what is damaged is refused.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hsnn_jax import plain_arrays

ARRAYS = "arrays.npz"


class Kind(NamedTuple):
    """What a folder holds, in a word, and the name of its header."""

    name: str
    header: str


def write(
    path: str | os.PathLike, kind: Kind, *, arrays: Mapping[str, Any], header: dict[str, Any]
) -> None:
    """Write a folder, in place of one that `write` wrote earlier.

    It is written beside its place under another name, and takes its place by a rename: a failure
    leaves the older folder as it was. A process that is killed between the two renames leaves the
    older one aside, which `found` finds and the next `write` puts back first.

    Args:
      path: of the folder.
      kind: of what is written.
      arrays: by name.
      header: what JSON holds, numpy's numbers included; with its "format".

    Raises:
      ValueError: something else is at the path.
    """
    path = Path(os.path.realpath(path))  # what a link points to
    if not path.exists() and _aside(path).exists():
        os.rename(_aside(path), path)
    if path.exists() and not (path.is_dir() and _is_ours(path, kind)):
        raise ValueError(f"path: expected a new folder or a saved {kind.name}, found {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
    try:
        new = temporary / "new"
        new.mkdir()
        _write_files(new, kind, arrays, header)
        _flush_folder(new)
        _take_place(new, path, _aside(path))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_ours(path, kind):
    return {entry.name for entry in path.iterdir()} <= {kind.header, ARRAYS}


def _write_files(folder, kind, arrays, header):
    with open(folder / ARRAYS, "wb") as file:
        named: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
        np.savez(file, **named)
        file.flush()
        os.fsync(file.fileno())
    header = header | {"arrays": _digest_of_file(folder / ARRAYS)}
    header |= {"digest": _digest(_canonical(header))}
    with open(folder / kind.header, "w", encoding="utf-8") as file:
        file.write(_text(header))
        file.flush()
        os.fsync(file.fileno())


def _take_place(new, path, old):
    """Rename `new` to `path`, and what is there to `old`; undone if it fails."""
    shutil.rmtree(old, ignore_errors=True)
    there = path.exists()
    if there:
        os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        if there:
            os.rename(old, path)
        raise
    _flush_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _aside(path):
    return path.with_name(f".{path.name}.before")


def _flush_folder(folder):
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def found(path: str | os.PathLike) -> Path:
    """Return where a folder lies, which a `write` that was killed has set aside."""
    path = Path(os.path.realpath(path))
    return _aside(path) if not path.exists() and _aside(path).exists() else path


def read(path: Path, kind: Kind, *, form: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header without its digest, and the arrays, of a folder that was `found`.

    Raises:
      ValueError: there is no such folder, its "format" is not `form`, or it is damaged.
    """
    header = _read_header(path / kind.header, kind, form)
    return header, _read_arrays(path / ARRAYS, kind, header.get("arrays"))


def _read_header(path, kind, form):
    try:
        text = path.read_bytes().decode()
        header = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"the header of a {kind.name}", error) from error
    found = header.get("format") if isinstance(header, dict) else None
    if found != form:
        raise ValueError(f"{path}: expected format {form!r}, found {found!r}")
    as_saved, digest = _text(header), header.pop("digest", None)
    if text != as_saved or digest != _digest(_canonical(header)):
        raise ValueError(f"{path}: expected the values that were saved, found others")
    return header


def _read_arrays(path, kind, digest):
    try:
        found = _digest_of_file(path)
    except OSError as error:
        raise _damaged(path, f"the arrays of a {kind.name}", error) from error
    if found != digest:
        raise ValueError(f"{path}: expected the bytes that were saved, found others")
    return plain_arrays.read(path)


def _damaged(path, expected, error):
    found = error.strerror if isinstance(error, OSError) else str(error)
    return ValueError(f"{path}: expected {expected}, found: {found}")


def _text(header) -> str:
    return _json(header, indent=2) + "\n"


def _canonical(header) -> bytes:
    return _json(header, sort_keys=True).encode()


def _json(header, **options) -> str:
    return json.dumps(header, default=lambda number: number.item(), **options)  # numpy's


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest_of_file(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
