"""A recommender on disk: a JSON header and npz files of arrays, written whole or not at all.

A folder is written beside its place and then renamed to it. One that was there before is set
aside under another name first and deleted last: whatever fails, one of both is whole, and a process
that is killed between the two renames leaves the one aside, which `load` finds. No pickle.

The header has the SHA-256 of every other file and of itself: a file that was damaged, or that is
another recommender's, is refused by name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nxtpost_jax.events import content as contents
from nxtpost_jax.events.content import ContentSet, with_nan_rows
from nxtpost_jax.events.ids import OwnIds
from nxtpost_jax.events.texts import TextEncoder
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.serving.served import Start
from nxtpost_jax.towers.model import NxtPost, NxtPostConfig

VERSION = 3
_HEADER, _PARAMS, _CONTENT, _CATALOGUE, _NAMES, _TEXTS = (
    "recommender.json",
    "params.npz",
    "content.npz",
    "catalogue.npz",
    "names.npz",
    "texts.npz",
)
_CATALOGUE_ARRAYS = ("vectors", "ids", "removed")


class Saved(NamedTuple):
    """Hold what a folder has.

    Attributes:
      start: the towers, content and the caller's ids.
      params: of the model.
      catalogue: items as they are found now, added ones among them.
    """

    start: Start
    params: Any
    catalogue: Catalogue


def save(path: str | os.PathLike, saved: Saved) -> None:
    """Write a recommender to a folder, replacing one that is there.

    Raises:
      ValueError: the path is a file, or a folder that holds other files.
      OSError: it cannot be written; what was there before still is.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() and _aside(path).exists():
        os.rename(_aside(path), path)
    _check_replaceable(path)
    header = {
        "version": VERSION,
        "config": dataclasses.asdict(saved.start.model.config),
        "num_items": saved.start.num_items,
        "content": saved.start.content is not None,
        "texts": saved.start.encoder is not None,
        "columns": dict(saved.start.columns),
    }
    items = {name: np.asarray(getattr(saved.catalogue, name)) for name in _CATALOGUE_ARRAYS}
    files: dict[str, dict[str, Any]] = {_PARAMS: _flat(saved.params), _CATALOGUE: items}
    if saved.start.content is not None:
        files[_CONTENT] = _content_arrays(saved.start.content)
    files[_NAMES] = _name_arrays(saved.start)
    if saved.start.encoder is not None:
        files[_TEXTS] = saved.start.encoder.stored()
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    staged.mkdir()
    try:
        for name, arrays in files.items():
            with open(staged / name, "wb") as stream:
                np.savez(stream, **arrays)
                _flush(stream)
        header["files"] = {name: _digest_of_file(staged / name) for name in files}
        header["digest"] = _digest(header)
        with open(staged / _HEADER, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(header, indent=2) + "\n")
            _flush(stream)
        _put_in_place(staged, path)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def load(path: str | os.PathLike) -> Saved:
    """Read what `save` wrote.

    Raises:
      ValueError: the folder holds no whole recommender, or one of another version; the file is
        named.
    """
    path = Path(os.path.realpath(path))
    if not path.exists() and _aside(path).exists():
        path = _aside(path)
    header = _header(path / _HEADER)
    for name in (_PARAMS, _CATALOGUE, _CONTENT, _NAMES, _TEXTS):
        _check(path / name, header["files"].get(name))
    config = NxtPostConfig(**header["config"])
    content, num_items = contents.of_catalogue(
        _content(_arrays(path / _CONTENT)) if header["content"] else None,
        id_embedding=config.id_embedding,
        num_items=header["num_items"],
    )
    start = Start(
        NxtPost(config, num_items if config.id_embedding else None),
        num_items,
        content,
        columns=header["columns"],
        encoder=TextEncoder.restore(_arrays(path / _TEXTS)) if header["texts"] else None,
        **_names(_arrays(path / _NAMES)),
    )
    catalogue = Catalogue.restore(**_arrays(path / _CATALOGUE), names=start.names)
    params = jax.tree.map(jnp.asarray, _nested(_arrays(path / _PARAMS)))
    return Saved(start, params, catalogue)


def _check_replaceable(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise ValueError(f"path: expected a folder, found the file {path}")
    own = {_HEADER, _PARAMS, _CONTENT, _CATALOGUE, _NAMES, _TEXTS}
    other = {entry.name for entry in path.iterdir()} - own if path.exists() else set()
    if other:
        raise ValueError(
            f"path: expected an empty folder or a recommender, found {min(other)} in {path}"
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


def _header(path: Path) -> dict:
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        found = (error.strerror or "nothing").lower()
        raise ValueError(f"{path}: expected a saved recommender, found {found}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, found {error}") from None
    version = header.get("version") if isinstance(header, dict) else None
    if version != VERSION:
        raise ValueError(f"{path}: expected version {VERSION}, found {version}")
    if header.pop("digest", None) != _digest(header):
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


def _digest(header: dict) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _digest_of_file(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _name_arrays(start: Start) -> dict[str, np.ndarray]:
    arrays = {"stale": start.stale}
    for kind, ids in (("items", start.names), ("actions", start.actions)):
        if isinstance(ids, OwnIds):
            arrays |= {f"{kind}/{name}": array for name, array in ids.stored().items()}
    return arrays


def _names(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    nested = _nested(arrays)
    items, actions = (nested.get(kind) for kind in ("items", "actions"))
    names = {} if items is None else {"names": OwnIds.restore(items)}
    return names | {
        "stale": nested["stale"],
        "actions": None if actions is None else OwnIds.restore(actions),
    }


def _content_arrays(content) -> dict[str, np.ndarray]:
    """Name arrays by channel ("" for one without a name) and part."""
    named = content if isinstance(content, dict) else {"": content}
    arrays = {}
    for name, channel in named.items():
        if isinstance(channel, ContentSet):
            arrays[f"{name}/vectors"] = np.asarray(channel.vectors)
            arrays[f"{name}/mask"] = np.asarray(channel.mask)
        else:
            arrays[f"{name}/array"] = np.asarray(channel)
    return arrays


def _content(arrays: dict):
    nested = _nested(arrays)
    channels = {
        name: ContentSet(**parts) if "mask" in parts else with_nan_rows(parts["array"])
        for name, parts in nested.items()
    }
    return channels.get("", channels)


def _flat(params) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(key.key for key in keys): np.asarray(leaf) for keys, leaf in leaves}


def _nested(arrays: dict) -> dict:
    params: dict = {}
    for name, array in arrays.items():
        *folders, last = name.split("/")
        node = params
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = array
    return params
