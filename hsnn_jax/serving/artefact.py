"""One file for indexes, items, ids, parameters and model: an .npz of arrays and a JSON header."""

import dataclasses
import json
import os
import tempfile
import zipfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hsnn_jax.lists import living
from hsnn_jax.lists.index import Index, extents_of
from hsnn_jax.monn.config import MoNNConfig, from_dict
from hsnn_jax.monn.scorers import dot
from hsnn_jax.nodes.beam_aware import Routes
from hsnn_jax.nodes.lti import LTIConfig
from hsnn_jax.serving import state
from hsnn_jax.serving.encoders import LevelModels
from hsnn_jax.serving.state import Nested

_FORMAT = "hsnn_jax.retriever/8"
# Format 1 has neither free rows nor a baseline, 2 has no model, 3 one level of nodes, 4 no extents;
# until 6 weights of the overarch "dot" held their scale, in 6 "mol" had an inner product; until 7
# there are no routes.
_READ = (*(f"hsnn_jax.retriever/{number}" for number in range(1, 8)), _FORMAT)
_CHANGED = {"dot": _READ[:6], "mol": _READ[5:6]}  # formats of other parameters, by overarch

_TREES = ("params", "item_features", "node_features", "routes")


class Content(NamedTuple):
    """What the file holds."""

    coarser: tuple[Index, ...]
    index: Index  # the last one, of the items
    item_vectors: np.ndarray  # float32 [n, d]; zeros in free rows
    item_ids: np.ndarray  # int64 [n]; -1 in free rows
    params: Any  # None, or nested dicts and tuples of arrays
    config: LTIConfig
    scorer: str
    slack: float
    max_beam: int | tuple[int, ...] | None
    baseline: dict[str, float] | None  # see `living.Living`; None in format 1
    model: MoNNConfig | tuple[MoNNConfig, ...] | None
    task: str | None
    nested: bool
    item_features: Any  # see `LevelModels.items`, zeros in free rows
    node_features: Any  # a tree of [K, ...] a level of nodes; None where items' features say it
    routes: Any  # the fields of `routes.Routes`, or None


def content_of(now: Nested, *, params, model, **settings) -> Content:
    """Gather what is saved of a retriever.

    Args:
      now: its state.
      params, model: its own; of several models the nodes are those of the indexes.
      **settings: the fields of `Content` that are settings.
    """
    several = isinstance(model, tuple)
    if several:
        params = {name: value for name, value in params.items() if name != "nodes"}
    return Content(
        coarser=now.coarser,
        index=now.items.index,
        item_vectors=np.asarray(living.item_vectors(now.items)),
        item_ids=now.items.ids,
        params=params,
        baseline=now.items.baseline,
        model=model,
        item_features=jax.device_get(living.item_features(now.items)),
        # Of several models alone: the others' are in what is above.
        node_features=now.node_features if several else None,
        routes=None if now.routes is None else now.routes._asdict(),
        **settings,
    )


def scorer_of(content: Content, scorer, path):
    """Return the scorer of a retriever that is loaded: none with a model, which has its own.

    Raises:
      ValueError: the content was saved with another scorer.
    """
    if content.model is None:
        scorer = scorer or dot
    if scorer is not None and content.scorer != scorer.__name__:
        raise ValueError(
            f"{path} was saved with scorer {content.scorer!r}, got {scorer.__name__!r}"
        )
    return scorer if content.model is None else None


def state_of(content: Content, models: LevelModels) -> Nested:
    """Make the state of a retriever from what was saved."""
    distance = content.config.distance
    items = living.start(
        content.index,
        content.item_vectors,
        content.item_ids,
        distance=distance,
        baseline=content.baseline,
        features=content.item_features,
    )
    now = state.start(
        content.coarser, items, models, distance=distance, node_features=content.node_features
    )
    return now if content.routes is None else now._replace(routes=Routes(**content.routes))


def write(path, content: Content) -> None:
    """Write atomically: the name appears when the file is complete.

    Raises:
      ValueError: `params` or features are neither None nor nested dicts, with string keys that
        have no "/" and do not start with "[", or tuples.
    """
    arrays = {f"index/{name}": value for name, value in content.index._asdict().items()}
    arrays |= {"item_vectors": content.item_vectors, "item_ids": content.item_ids}
    arrays |= _flatten("coarser", tuple(index._asdict() for index in content.coarser))
    for name in _TREES:
        arrays |= _flatten(name, getattr(content, name))
    header = {
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
    }
    arrays["header"] = np.array(json.dumps(header))
    folder = os.path.dirname(os.path.abspath(path))
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **{name: np.asarray(value) for name, value in arrays.items()})
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read(path) -> Content:
    """Read what `write` wrote; nothing in the file is executed.

    Raises:
      ValueError: the file is not such an artefact.
    """
    try:
        # np.load would leave a file open that is not an archive.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = dict(file)
        header = json.loads(str(arrays.pop("header")))
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, TypeError) as error:
        raise ValueError(f"{path} is not a retriever's .npz file") from error
    if header.get("format") not in _READ:
        raise ValueError(f"{path} must have format {_FORMAT!r}, got {header.get('format')!r}")
    model = _model(header.get("model"))
    for overarch in _overarches(model):
        if header["format"] in _CHANGED.get(overarch, ()):
            raise ValueError(
                f"{path} must have format {_FORMAT!r} for a model with overarch {overarch!r}, got "
                f"{header['format']!r}: train it again"
            )
    item_features = _unflatten("item_features", arrays) or None
    if item_features is not None and header["format"] == _READ[2]:
        item_features = {"encoded": item_features}
    return Content(
        coarser=tuple(_index(fields) for fields in _unflatten("coarser", arrays)),
        index=_index(_unflatten("index", arrays)),
        item_vectors=arrays["item_vectors"],
        item_ids=arrays["item_ids"],
        params=_unflatten("params", arrays) if header["has_params"] else None,
        config=LTIConfig(**header["config"]),
        scorer=header["scorer"],
        slack=header["slack"],
        max_beam=_tuple(header["max_beam"]),
        baseline=header.get("baseline"),
        model=model,
        task=header.get("task"),
        nested=header.get("nested", False),
        item_features=item_features,
        node_features=_unflatten("node_features", arrays) or None,
        routes=_unflatten("routes", arrays) or None,
    )


def _index(fields) -> Index:
    return Index(**({"extents": extents_of(fields["lists"])} | fields))


def _model(saved):
    if isinstance(saved, list):
        return tuple(map(from_dict, saved))
    return None if saved is None else from_dict(saved)


def _overarches(model):
    models = model if isinstance(model, tuple) else () if model is None else (model,)
    return {one.overarch for one in models}


def _tuple(saved):
    return tuple(saved) if isinstance(saved, list) else saved


def _flatten(prefix, tree):
    flat = {}
    for path, value in jax.tree_util.tree_leaves_with_path(tree):
        flat["/".join([prefix, *(_name(prefix, entry, path) for entry in path)])] = value
    return flat


def _name(prefix, entry, path):
    if isinstance(entry, jax.tree_util.SequenceKey):
        return f"[{entry.idx}]"
    key = getattr(entry, "key", None)
    if isinstance(key, str) and "/" not in key and not key.startswith("["):
        return key
    raise ValueError(f"{prefix} must be nested dicts with plain string keys, or tuples, got {path}")


def _unflatten(prefix, arrays):
    """Return what `_flatten` was given, {} where there is nothing."""
    tree = {}
    for name, value in arrays.items():
        first, *keys = name.split("/")
        if first != prefix or not keys:
            continue
        inner = tree
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = jnp.asarray(value)
    return _with_tuples(tree)


def _with_tuples(tree):
    if not isinstance(tree, dict):
        return tree
    tree = {key: _with_tuples(value) for key, value in tree.items()}
    if tree and all(key.startswith("[") for key in tree):
        return tuple(tree[f"[{i}]"] for i in range(len(tree)))
    return tree
