"""A recommender on disk: a JSON header and npz files of arrays; no pickle."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nxtpost_jax.events.content import ContentSet
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.towers.model import NxtPostConfig

VERSION = 2
_HEADER, _PARAMS, _CONTENT, _CATALOGUE = (
    "recommender.json",
    "params.npz",
    "content.npz",
    "catalogue.npz",
)
_UNFINISHED = _HEADER + ".partial"
_CATALOGUE_ARRAYS = ("vectors", "ids", "removed")


class Saved(NamedTuple):
    """Hold what a folder has: arrays are numpy's, those of the catalogue on the device."""

    config: NxtPostConfig
    num_items: int
    params: dict
    content: Any
    catalogue: Catalogue


def save(path, config: NxtPostConfig, num_items: int, params, content, catalogue) -> None:
    """Write a recommender to a folder, replacing one that is there.

    The header goes last, under a temporary name until it is complete: a folder that a killed
    process left behind is refused by `load`.

    Args:
      path: the folder.
      config, num_items, params: of the model.
      content: see `content`, or None.
      catalogue: items as they are found now, added ones among them.

    Raises:
      ValueError: the folder holds other files.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    own = {_HEADER, _PARAMS, _CONTENT, _CATALOGUE, _UNFINISHED}
    other = {entry.name for entry in path.iterdir()} - own
    if other:
        raise ValueError(f"{path}: expected an empty folder or a recommender, found {min(other)}")
    for name in (_HEADER, _CONTENT):
        (path / name).unlink(missing_ok=True)
    np.savez(path / _PARAMS, **_flat(params))
    arrays = {name: np.asarray(getattr(catalogue, name)) for name in _CATALOGUE_ARRAYS}
    np.savez(path / _CATALOGUE, **arrays)
    if content is not None:
        np.savez(path / _CONTENT, **_content_arrays(content))
    header = {
        "version": VERSION,
        "config": dataclasses.asdict(config),
        "num_items": num_items,
        "content": content is not None,
    }
    (path / _UNFINISHED).write_text(json.dumps(header, indent=2) + "\n")
    os.replace(path / _UNFINISHED, path / _HEADER)


def load(path) -> Saved:
    """Read what `save` wrote.

    Raises:
      ValueError: the folder holds no complete recommender, or one of another version.
    """
    path = Path(path)
    header = _header(path / _HEADER)
    if header.get("version") != VERSION:
        raise ValueError(
            f"{path / _HEADER}: expected version {VERSION}, found {header.get('version')}"
        )
    catalogue = Catalogue.restore(**_arrays(path / _CATALOGUE))
    return Saved(
        NxtPostConfig(**header["config"]),
        header["num_items"],
        _nested(_arrays(path / _PARAMS)),
        _content(_arrays(path / _CONTENT)) if header["content"] else None,
        catalogue,
    )


def _header(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: expected a saved recommender, found no such file") from None
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, found {error}") from None


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


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
        name: ContentSet(**parts) if "mask" in parts else parts["array"]
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
