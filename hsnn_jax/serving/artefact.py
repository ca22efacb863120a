"""One folder for indexes, items, ids, parameters and model: a JSON header and an .npz of arrays.

Ids that are no integers are JSON among the arrays: strings, and integers beside them.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hsnn_jax.descent.recall import Tail
from hsnn_jax.lists import living
from hsnn_jax.lists.index import Index
from hsnn_jax.monn.config import MoNNConfig, from_dict
from hsnn_jax.monn.scorers import dot
from hsnn_jax.nodes.beam_aware import Routes
from hsnn_jax.nodes.config import LTIConfig
from hsnn_jax.serving import checking, plain_arrays, state
from hsnn_jax.serving.encoders import LevelModels
from hsnn_jax.serving.plain_arrays import reading
from hsnn_jax.serving.pool import Pool
from hsnn_jax.serving.state import Nested
from hsnn_jax.serving.trees import flatten, unflatten

_FORMAT = "hsnn_jax.retriever/11"
_HEADER, _ARRAYS = "retriever.json", "arrays.npz"

_TREES = ("params", "pool_params", "item_features", "node_features", "routes", "tail")


class Content(NamedTuple):
    """What the folder holds."""

    coarser: tuple[Index, ...]
    # The last one, of the items.
    index: Index  # pyright: ignore[reportIncompatibleMethodOverride]  # not tuple's method
    item_vectors: np.ndarray  # float32 [n, d]; zeros in free rows
    item_ids: np.ndarray  # int64 or object [n], see `lists.ids`; -1 or None in free rows
    params: Any  # None, or nested dicts and tuples of arrays
    config: LTIConfig
    scorer: str
    slack: float
    max_beam: int | tuple[int, ...] | None
    baseline: dict[str, float] | None  # see `living.Living`
    model: MoNNConfig | tuple[MoNNConfig, ...] | None
    task: str | None
    nested: bool
    item_features: Any  # see `LevelModels.items`, zeros in free rows
    node_features: Any  # a tree of [K, ...] a level of nodes; None where items' features say it
    routes: Any  # the fields of `routes.Routes`, or None
    tail: Any  # the fields of `recall.Tail`, or None: estimates of recall are NaN
    pool: dict[str, Any] | None  # what a `Pool` is made of, its scorer by name, without params
    pool_params: Any  # as `params`


_SETTINGS = ("params", "model", "task", "slack", "max_beam", "nested")
_SAID = ("scorer", "slack", "baseline", "task", "nested", "pool")


def content_of(retriever: Any, now: Nested) -> Content:
    """Gather what is saved of a retriever and its state."""
    settings = {name: getattr(retriever, name) for name in _SETTINGS}
    several = isinstance(retriever.model, tuple)
    if several:  # their nodes are those of the indexes
        params = settings["params"].items()
        settings["params"] = {name: value for name, value in params if name != "nodes"}
    return Content(
        coarser=now.coarser,
        index=now.items.index,
        item_vectors=np.asarray(living.item_vectors(now.items)),
        item_ids=now.items.ids,
        config=retriever.config,
        scorer=retriever.scorer.__name__,
        baseline=now.items.baseline,
        item_features=jax.device_get(living.item_features(now.items)),
        # Of several models alone: the others' are in what is above.
        node_features=now.node_features if several else None,
        routes=None if now.routes is None else now.routes._asdict(),
        tail=None if now.tail is None else now.tail._asdict(),
        pool=_pool_fields(retriever.candidates),
        pool_params=None if retriever.candidates is None else retriever.candidates.params,
        **settings,
    )


def _pool_fields(pool):
    if pool is None:
        return None
    named = {"scorer": pool.scorer.__name__, "has_params": pool.params is not None}
    return {"size": pool.size, "nodes": pool.nodes} | named


def settings_of(
    content: Content,
    *,
    scorer: Callable | None,
    path: str | os.PathLike,
    cheap: Callable | None = None,
) -> dict[str, Any]:
    """Return the arguments of a retriever that is loaded; with a model, it makes its own scorer.

    Raises:
      ValueError: the content was saved with another scorer, or another that goes first; or its
        parts do not belong together, and the file is named.
    """
    if content.model is None:
        scorer = scorer or dot
    if scorer is not None:
        _check_name("scorer", scorer, content.scorer, path)
    settings = {name: getattr(content, name) for name in _SETTINGS}
    settings |= {"scorer": scorer if content.model is None else None}
    if content.pool is None:
        return _checked(path, content, settings)
    cheap = cheap or dot
    _check_name("candidates", cheap, content.pool["scorer"], path)
    pool = Pool(content.pool["size"], cheap, content.pool_params, content.pool["nodes"])
    return _checked(path, content, settings | {"candidates": pool})


def _check_name(argument, scorer, name, path):
    if name != scorer.__name__:
        raise ValueError(
            f"{argument}: expected {name!r}, with which {path} was saved, found {scorer.__name__!r}"
        )


def state_of(content: Content, models: LevelModels) -> Nested:
    """Make the state of a retriever from what was saved."""
    distance = content.config.distance
    items = living.start(
        content.index,
        content.item_vectors,
        ids=content.item_ids,
        distance=distance,
        baseline=content.baseline,
        features=content.item_features,
        wide=state.reads_wide(models),
    )
    now = state.start(
        content.coarser,
        items,
        models=models,
        distance=distance,
        node_features=content.node_features,
    )
    routes = None if content.routes is None else Routes(**content.routes)
    tail = None if content.tail is None else Tail(**content.tail)
    return now._replace(routes=routes, tail=tail)


def write(path: str | os.PathLike, content: Content) -> None:
    """Write a folder, whole or not at all, in place of one that `write` wrote earlier.

    It is written beside its place under another name, and takes its place by a rename: a failure
    leaves the older folder as it was. A process that is killed between the two renames leaves the
    older one aside, which `read` finds and the next `write` puts back first.

    Raises:
      ValueError: something else is at the path; ids are neither strings nor integers; `params` or
        features are neither None nor nested
        dicts, with string keys that have no "/" and do not start with "[", or tuples.
    """
    path = Path(os.path.realpath(path))  # what a link points to
    if not path.exists() and _aside(path).exists():
        os.rename(_aside(path), path)
    if path.exists() and not (path.is_dir() and _is_ours(path)):
        raise ValueError(f"path: expected a new folder or a saved retriever, found {path}")
    arrays = _arrays_of(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
    try:
        new = temporary / "new"
        new.mkdir()
        _write_files(new, arrays, _header_of(content))
        _flush_folder(new)
        _take_place(new, path, _aside(path))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_ours(path):
    return {entry.name for entry in path.iterdir()} <= {_HEADER, _ARRAYS}


def _write_files(folder, arrays, header):
    with open(folder / _ARRAYS, "wb") as file:
        named: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
        np.savez(file, **named)
        file.flush()
        os.fsync(file.fileno())
    header |= {"arrays": _digest_of_file(folder / _ARRAYS)}
    header |= {"digest": _digest(_canonical(header))}
    with open(folder / _HEADER, "w", encoding="utf-8") as file:
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


def _arrays_of(content):
    arrays = {f"index/{name}": value for name, value in content.index._asdict().items()}
    arrays |= {"item_vectors": content.item_vectors, "item_ids": _ids_array(content.item_ids)}
    arrays |= flatten("coarser", tuple(index._asdict() for index in content.coarser))
    for name in _TREES:
        arrays |= flatten(name, getattr(content, name))
    return arrays


def _ids_array(ids):
    """Return ids as an array of numbers: int64 [n], or the bytes of a JSON list."""
    if ids.dtype != object:
        return ids
    for one in ids:
        if one is not None and not (isinstance(one, str) or type(one) is int):
            raise ValueError(f"item_ids: expected strings or integers in a file, found {one!r}")
    return np.frombuffer(json.dumps(ids.tolist()).encode(), np.uint8)


def _ids_of(array):
    if array.dtype != np.uint8:
        return array
    held = json.loads(array.tobytes())
    if not isinstance(held, list) or not {str, int, type(None)} >= set(map(type, held)):
        raise ValueError(f"item_ids: expected strings and integers, found {held!r:.60}")
    ids = np.empty(len(held), object)
    ids[:] = held
    return ids


def _header_of(content):
    return {
        "format": _FORMAT,
        "config": dataclasses.asdict(content.config),
        "scorer": content.scorer,
        "slack": content.slack,
        "max_beam": content.max_beam,
        "baseline": content.baseline,
        "has_params": content.params is not None,
        "model": jax.tree.map(dataclasses.asdict, content.model),
        "task": content.task,
        "nested": content.nested,
        "pool": content.pool,
    }


def read(path: str | os.PathLike) -> Content:
    """Read what `write` wrote; nothing in the folder is executed.

    Raises:
      ValueError: there is no such folder, it was written in another format, or it is damaged:
        both files carry a digest.
    """
    path = found(path)
    header = _read_header(path / _HEADER)
    arrays = _read_arrays(path / _ARRAYS, header.get("arrays"))
    with reading(path / _HEADER):
        checking.check_settings(header)
        settings = {
            "config": checking.config_of(header["config"]),
            "max_beam": _tuple(header["max_beam"]),
            "model": _model(header["model"], len(arrays)),
        }
        settings |= {name: header[name] for name in _SAID}
    with reading(path / _ARRAYS):
        return Content(
            coarser=tuple(Index(**fields) for fields in unflatten("coarser", arrays)),
            index=Index(**unflatten("index", arrays)),
            item_vectors=arrays["item_vectors"],
            item_ids=_ids_of(arrays["item_ids"]),
            params=unflatten("params", arrays) if header["has_params"] else None,
            item_features=unflatten("item_features", arrays) or None,
            node_features=unflatten("node_features", arrays) or None,
            routes=unflatten("routes", arrays) or None,
            tail=unflatten("tail", arrays) or None,
            pool_params=_pool_params(header["pool"], arrays),
            **settings,
        )


def found(path: str | os.PathLike) -> Path:
    """Return where a folder lies, which a `write` that was killed has set aside."""
    path = Path(os.path.realpath(path))
    return _aside(path) if not path.exists() and _aside(path).exists() else path


def _checked(path, content, settings):
    """Return the settings if what was read belongs together, before a search reads it."""
    folder = found(path)
    with reading(folder / _HEADER):
        models = checking.models_of(settings, content.config)
    with reading(folder / _ARRAYS):
        checking.check(content, models)
    return settings


def _pool_params(pool, arrays):
    return unflatten("pool_params", arrays) if pool and pool["has_params"] else None


def _read_header(path):
    try:
        text = path.read_bytes().decode()
        header = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, "the header of a retriever", error) from error
    found = header.get("format") if isinstance(header, dict) else None
    if found != _FORMAT:
        raise ValueError(f"{path}: expected format {_FORMAT!r}, found {found!r}")
    as_saved, digest = _text(header), header.pop("digest", None)
    if text != as_saved or digest != _digest(_canonical(header)):
        raise ValueError(f"{path}: expected the values that were saved, found others")
    return header


def _read_arrays(path, digest):
    try:
        found = _digest_of_file(path)
    except OSError as error:
        raise _damaged(path, "the arrays of a retriever", error) from error
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


def _model(saved, arrays):
    if saved is None:
        return None
    models = tuple(map(from_dict, saved if isinstance(saved, list) else [saved]))
    for model in models:
        checking.check_model(model, arrays)
    return models if isinstance(saved, list) else models[0]


def _tuple(saved):
    return tuple(saved) if isinstance(saved, list) else saved
