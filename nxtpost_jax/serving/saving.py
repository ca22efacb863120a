"""A recommender on disk: what a `folders` folder holds of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nxtpost_jax import folders
from nxtpost_jax.events import content as contents
from nxtpost_jax.events.content import ContentSet
from nxtpost_jax.events.descriptions import Descriptions, check_encoders
from nxtpost_jax.events.ids import OwnIds
from nxtpost_jax.events.kinds import Told
from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.folders import Kind, arrays_of, flat, nested
from nxtpost_jax.serving import kept_users
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.serving.served import Start, State
from nxtpost_jax.towers.model import NxtPost, NxtPostConfig

_PARAMS, _CATALOGUE, _CONTENT, _NAMES, _DESCRIPTIONS, _ADDED, _USERS = _FILES = (
    "params.npz",
    "catalogue.npz",
    "content.npz",
    "names.npz",
    "descriptions.npz",
    "added.npz",
    "users.npz",
)
KIND = Kind("a recommender", "recommender.json", _FILES, version=4)
_CATALOGUE_ARRAYS = ("vectors", "ids", "removed")


def save(path: str | os.PathLike, saved: State, users: Mapping[Hashable, Sequences]) -> None:
    """Write a recommender and its live users' events to a folder, replacing one that is there.

    Raises:
      ValueError: the path is a file, or a folder that holds other files; or a user's name is none
        that a folder can hold.
      OSError: it cannot be written; what was there before still is.
    """
    start = saved.begun
    header = {
        "config": dataclasses.asdict(start.model.config),
        "num_items": start.num_items,
        "content": start.content is not None,
        "columns": dict(start.columns),
    }
    items = {name: np.asarray(getattr(saved.catalogue, name)) for name in _CATALOGUE_ARRAYS}
    items["recent"] = np.array(len(saved.catalogue.recent.ids))
    files: dict[str, dict[str, Any]] = {_PARAMS: flat(saved.params), _CATALOGUE: items}
    if start.content is not None:
        files[_CONTENT] = _content_arrays(start.content)
    files[_NAMES] = _name_arrays(start)
    if saved.added:
        files[_ADDED] = _added_arrays(saved.added)
    if start.descriptions is not None:
        files[_DESCRIPTIONS] = start.descriptions.stored()
    if users:
        files[_USERS] = kept_users.stored(users)
    folders.write(path, KIND, header=header, files=files)


def load(
    path: str | os.PathLike, *, parts: Told | None = None
) -> tuple[State, dict[Hashable, Sequences]]:
    """Read what `save` wrote: the recommender, and users' events.

    Args:
      path: the folder.
      parts: see `Recommender`; the encoders of texts in it are those of before.

    Raises:
      ValueError: the folder holds no whole recommender, or one of another version; the file is
        named. Or `parts` has an encoder of something else.
    """
    path, header = folders.opened(path, KIND)
    config = NxtPostConfig(**header["config"])
    content, num_items = contents.of_catalogue(
        _content(arrays_of(path / _CONTENT)) if header["content"] else None,
        id_embedding=config.id_embedding,
        num_items=header["num_items"],
        told_absent_N=np.ones(header["num_items"], bool),  # as it was before
    )
    start = Start(
        NxtPost(config, num_items if config.id_embedding else None),
        num_items,
        content,
        columns=header["columns"],
        descriptions=_descriptions(path, header, parts or {}),
        **_names(arrays_of(path / _NAMES)),
    )
    catalogue = Catalogue.restore(**arrays_of(path / _CATALOGUE), names=start.names)
    params = jax.tree.map(jnp.asarray, nested(arrays_of(path / _PARAMS)))
    kept = _USERS in header["files"]
    users = kept_users.restored(arrays_of(path / _USERS)) if kept else {}
    return State(start, params, catalogue, added=_added(path, header)), users


def _descriptions(path: Path, header: dict[str, Any], parts: Told) -> Descriptions | None:
    if _DESCRIPTIONS not in header["files"]:
        check_encoders(parts, {})
        return None
    return Descriptions.restore(arrays_of(path / _DESCRIPTIONS), told=parts)


def _added_arrays(added) -> dict[str, np.ndarray]:
    """Stack the content of items that came by `add`, and their numbers."""
    rows = jax.tree.map(lambda *parts: np.stack(parts), *added.values())
    return {"ids": np.fromiter(added, np.int32, len(added)), **_content_arrays(rows)}


def _added(path: Path, header: dict[str, Any]) -> dict[int, Any]:
    if _ADDED not in header["files"]:
        return {}
    arrays = arrays_of(path / _ADDED)
    ids = arrays.pop("ids").tolist()
    rows = _content(arrays)
    return {code: jax.tree.map(lambda part, i=i: part[i], rows) for i, code in enumerate(ids)}


def _name_arrays(start: Start) -> dict[str, np.ndarray]:
    arrays = {"stale": start.stale}
    for kind, ids in (("items", start.names), ("actions", start.actions)):
        if isinstance(ids, OwnIds):
            arrays |= {f"{kind}/{name}": array for name, array in ids.stored().items()}
    return arrays


def _names(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    parts = nested(arrays)
    items, actions = (parts.get(kind) for kind in ("items", "actions"))
    names = {} if items is None else {"names": OwnIds.restore(items)}
    return names | {
        "stale": parts["stale"],
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
    channels = {
        name: ContentSet(**parts) if "mask" in parts else parts["array"]
        for name, parts in nested(arrays).items()
    }
    return channels.get("", channels)
