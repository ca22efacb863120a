"""A recommender on disk: what a `folders` folder holds of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Hashable, Mapping
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
from nxtpost_jax.plain_arrays import reading
from nxtpost_jax.serving import checking, kept_users
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.serving.served import Start, State
from nxtpost_jax.serving.trending import Trending
from nxtpost_jax.towers.model import NxtPost, NxtPostConfig

_PARAMS, _CATALOGUE, _CONTENT, _NAMES, _DESCRIPTIONS, _ADDED, _USERS, _TRENDS = _FILES = (
    "params.npz",
    "catalogue.npz",
    "content.npz",
    "names.npz",
    "descriptions.npz",
    "added.npz",
    "users.npz",
    "trends.npz",
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
    if saved.trending is not None:
        items, times = saved.trending.trends.events()
        files[_TRENDS] = {"items": items, "times": times}
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
    with reading(path / _PARAMS):
        params = jax.tree.map(jnp.asarray, nested(arrays_of(path / _PARAMS)))
        num_arrays = len(jax.tree.leaves(params))
    with reading(path / KIND.header):
        config = checking.config_of(header["config"], num_arrays)
        num_items, has_content = header["num_items"], header["content"]
        columns, files = dict(header["columns"]), header["files"]
    content, num_items = _content_of(path / _CONTENT, config, num_items, there=has_content)
    start = Start(
        NxtPost(config, num_items if config.id_embedding else None),
        num_items,
        content,
        columns=columns,
        descriptions=_descriptions(path / _DESCRIPTIONS, files, parts or {}),
        **_names(path / _NAMES),
    )
    with reading(path / _NAMES):
        checking.check_start(start)
    with reading(path / _PARAMS):
        checking.check_params(start.model, params, content)
    with reading(path / _CATALOGUE):
        arrays = arrays_of(path / _CATALOGUE)
        checking.check_catalogue(arrays, start)
        catalogue = Catalogue.restore(**arrays, names=start.names)
    added = _added(path / _ADDED, start) if _ADDED in files else {}
    users = _users(path / _USERS, start) if _USERS in files else {}
    trending = _trending(path / _TRENDS, start, there=_TRENDS in files)
    return State(start, params, catalogue, added=added, trending=trending), users


def _content_of(path: Path, config: NxtPostConfig, num_items: int, *, there: bool) -> tuple:
    """Read what is known of the items of the start: their content, and how many they are."""
    with reading(path if there else path.with_name(KIND.header)):
        found = _content(arrays_of(path)) if there else None
        checking.check_num_items(num_items, found)
        return contents.of_catalogue(
            found,
            id_embedding=config.id_embedding,
            num_items=num_items,
            told_absent_N=np.ones(num_items, bool) if there else None,  # as it was before
        )


def _descriptions(path: Path, files: Collection[str], parts: Told) -> Descriptions | None:
    if _DESCRIPTIONS not in files:
        check_encoders(parts, {})
        return None
    with reading(path):
        arrays = arrays_of(path)
        found = Descriptions.restore(arrays, told={})
    # What fails now is what the caller gave.
    return Descriptions.restore(arrays, told=parts) if parts else found


def _added_arrays(added) -> dict[str, np.ndarray]:
    """Stack the content of items that came by `add`, and their numbers."""
    rows = jax.tree.map(lambda *parts: np.stack(parts), *added.values())
    return {"ids": np.fromiter(added, np.int32, len(added)), **_content_arrays(rows)}


def _added(path: Path, start: Start) -> dict[int, Any]:
    with reading(path):
        arrays = arrays_of(path)
        ids = arrays.pop("ids").tolist()
        rows = _content(arrays)
        added = {code: jax.tree.map(lambda part, i=i: part[i], rows) for i, code in enumerate(ids)}
        checking.check_added(added, start)
    return added


def _trending(path: Path, start: Start, *, there: bool) -> Trending | None:
    begun = Trending.begun(start.model)
    if begun is None:
        return None
    with reading(path if there else path.with_name(KIND.header)):
        arrays = arrays_of(path)
        checking.check_trends(arrays)
        begun.trends.add(arrays["items"], arrays["times"])
    return begun


def _users(path: Path, start: Start) -> dict[Hashable, Sequences]:
    with reading(path):
        users = kept_users.restored(arrays_of(path))
        checking.check_users(users, start)
    return users


def _name_arrays(start: Start) -> dict[str, np.ndarray]:
    arrays = {"stale": start.stale}
    for kind, ids in (("items", start.names), ("actions", start.actions)):
        if isinstance(ids, OwnIds):
            arrays |= {f"{kind}/{name}": array for name, array in ids.stored().items()}
    return arrays


def _names(path: Path) -> dict[str, Any]:
    with reading(path):
        parts = nested(arrays_of(path))
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
