"""Folders of a JSON header and npz files of arrays, written whole or not at all. No pickle.

A folder is written beside its place and then renamed to it. One that was there before is set
aside under another name first and deleted last: whatever fails, one of both is whole, and a process
that is killed between the two renames leaves the one aside, which `opened` finds.

The header has the SHA-256 of every other file and of itself: a file that was damaged, or that is
another folder's, is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nxtpost_jax import plain_arrays
from nxtpost_jax.plain_arrays import reading

Arrays = Mapping[str, Any]


class Kind(NamedTuple):
    """Say what a folder holds.

    Attributes:
      name: in words, with its article.
      header: the name of the header's file.
      files: the names of all files of arrays that there may be.
      version: of the format.
    """

    name: str
    header: str
    files: Collection[str]
    version: int


def write(
    path: str | os.PathLike, kind: Kind, *, header: Mapping[str, Any], files: Mapping[str, Arrays]
) -> None:
    """Write a folder, replacing one of the same kind that is there.

    Args:
      path: the folder.
      kind: what it holds.
      header: what JSON can say, besides version and digests.
      files: arrays by the names of the files and their own.

    Raises:
      ValueError: the path is a file, or a folder that holds other files.
      OSError: it cannot be written; what was there before still is.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() and _aside(path).exists():
        os.rename(_aside(path), path)
    _check_replaceable(path, kind)
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    staged.mkdir()
    try:
        for name, arrays in files.items():
            with open(staged / name, "wb") as stream:
                np.savez(stream, **arrays)
                _flush(stream)
        whole = {"version": kind.version, **header}
        whole["files"] = {name: _digest_of_file(staged / name) for name in files}
        whole["digest"] = digest_of(whole)
        with open(staged / kind.header, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(whole, indent=2) + "\n")
            _flush(stream)
        _put_in_place(staged, path)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def holds(path: str | os.PathLike, kind: Kind) -> bool:
    """Tell whether a folder of a kind is there, whole or not."""
    path = Path(os.path.realpath(path))
    return any((each / kind.header).exists() for each in (path, _aside(path)))


def opened(path: str | os.PathLike, kind: Kind) -> tuple[Path, dict[str, Any]]:
    """Find a folder and check all of its files: where it lies, and its header.

    Raises:
      ValueError: it is not whole, or of another version; the file is named.
    """
    path = Path(os.path.realpath(path))
    if not path.exists() and _aside(path).exists():
        path = _aside(path)
    header = _header(path / kind.header, kind)
    with reading(path / kind.header):
        digests = {str(name): str(digest) for name, digest in header["files"].items()}
    for name in kind.files:
        _check(path / name, digests.get(name))
    return path, header


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """Read a file of arrays, see `plain_arrays.read`."""
    return plain_arrays.read(path)


def flat(params: Any) -> dict[str, np.ndarray]:
    """Name the leaves of nested dicts by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(key.key for key in keys): np.asarray(leaf) for keys, leaf in leaves}


def nested(arrays: Arrays) -> dict[str, Any]:
    """Undo `flat`."""
    params: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, last = name.split("/")
        node = params
        for folder in folders:
            node = node.setdefault(folder, {})
            if not isinstance(node, dict):
                raise ValueError(f"{name}: expected no array at {folder!r}, found one")
        node[last] = array
    return params


def digest_of(value: Any) -> str:
    """Compute the SHA-256 of what JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _check_replaceable(path: Path, kind: Kind) -> None:
    if path.exists() and not path.is_dir():
        raise ValueError(f"path: expected a folder, found the file {path}")
    own = {kind.header, *kind.files}
    other = {entry.name for entry in path.iterdir()} - own if path.exists() else set()
    if other:
        raise ValueError(
            f"path: expected an empty folder or {kind.name}, found {min(other)} in {path}"
        )


def _put_in_place(staged: Path, path: Path) -> None:
    aside = _aside(path)
    shutil.rmtree(aside, ignore_errors=True)
    _flush_folder(staged)
    if path.exists():
        os.rename(path, aside)
    try:
        os.rename(staged, path)
    except BaseException:
        if aside.exists():
            os.rename(aside, path)
        raise
    _flush_folder(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.before")


def _flush(stream) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _header(path: Path, kind: Kind) -> dict[str, Any]:
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        found = (error.strerror or "nothing").lower()
        saved = kind.name.partition(" ")[2]
        raise ValueError(f"{path}: expected a saved {saved}, found {found}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, found {error}") from None
    version = header.get("version") if isinstance(header, dict) else None
    if version != kind.version:
        raise ValueError(f"{path}: expected version {kind.version}, found {version}")
    if header.pop("digest", None) != digest_of(header):
        raise ValueError(f"{path}: expected the values that were saved, found others")
    return header


def _check(path: Path, digest: str | None) -> None:
    """Refuse a file that is not as it was saved; `digest` is None for one that was not."""
    if digest is None:
        if path.exists():
            raise ValueError(f"{path}: expected no such file, as none was saved, found one")
    elif not path.is_file():
        raise ValueError(f"{path}: expected a file as it was saved, found no such file")
    elif _digest_of_file(path) != digest:
        raise ValueError(f"{path}: expected the bytes that were saved, found others")


def _digest_of_file(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
