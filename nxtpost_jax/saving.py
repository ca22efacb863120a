"""A recommender on disk: a JSON header, an npz of parameters, an npy of content; no pickle."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import jax
import numpy as np

from nxtpost_jax.model import NxtPostConfig

VERSION = 1
_HEADER, _PARAMS, _CONTENT = "recommender.json", "params.npz", "content.npy"
_UNFINISHED = _HEADER + ".partial"


def save(path, config: NxtPostConfig, num_items: int, params, content=None) -> None:
    """Write a recommender to a folder, replacing one that is there.

    The header goes last, under a temporary name until it is complete: a folder that a killed
    process left behind is refused by `load`.

    Raises:
      ValueError: the folder holds other files.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    other = {entry.name for entry in path.iterdir()} - {_HEADER, _PARAMS, _CONTENT, _UNFINISHED}
    if other:
        raise ValueError(f"{path}: expected an empty folder or a recommender, found {min(other)}")
    for name in (_HEADER, _CONTENT):
        (path / name).unlink(missing_ok=True)
    np.savez(path / _PARAMS, **_flat(params))
    if content is not None:
        np.save(path / _CONTENT, np.asarray(content))
    header = {
        "version": VERSION,
        "config": dataclasses.asdict(config),
        "num_items": num_items,
        "content": content is not None,
    }
    (path / _UNFINISHED).write_text(json.dumps(header, indent=2) + "\n")
    os.replace(path / _UNFINISHED, path / _HEADER)


def load(path) -> tuple[NxtPostConfig, int, dict, np.ndarray | None]:
    """Read what `save` wrote: config, number of items, parameters, content.

    Raises:
      ValueError: the folder holds no complete recommender, or one of another version.
    """
    path = Path(path)
    header = _header(path / _HEADER)
    if header.get("version") != VERSION:
        raise ValueError(
            f"{path / _HEADER}: expected version {VERSION}, found {header.get('version')}"
        )
    with np.load(path / _PARAMS, allow_pickle=False) as arrays:
        params = _nested(arrays)
    content = np.load(path / _CONTENT, allow_pickle=False) if header["content"] else None
    return NxtPostConfig(**header["config"]), header["num_items"], params, content


def _header(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: expected a saved recommender, found no such file") from None
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, found {error}") from None


def _flat(params) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(key.key for key in keys): np.asarray(leaf) for keys, leaf in leaves}


def _nested(arrays) -> dict:
    params: dict = {}
    for name in arrays:
        *folders, last = name.split("/")
        node = params
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = arrays[name]
    return params
