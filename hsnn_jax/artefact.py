"""One file for index, items, ids, parameters and model: an .npz of arrays and a JSON header."""

import dataclasses
import json
import os
import tempfile
import zipfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hsnn_jax.index import Index
from hsnn_jax.lti import LTIConfig
from hsnn_jax.monn_config import MoNNConfig, from_dict

_FORMAT = "hsnn_jax.retriever/3"
# Format 1 has neither free rows nor a baseline, 2 has no model.
_READ = ("hsnn_jax.retriever/1", "hsnn_jax.retriever/2", _FORMAT)


_TREES = ("params", "item_features")


class Content(NamedTuple):
    """What the file holds."""

    index: Index
    item_vectors: np.ndarray  # float32 [n, d]; zeros in free rows
    item_ids: np.ndarray  # int64 [n]; -1 in free rows
    params: Any  # None or nested dicts of arrays
    config: LTIConfig
    scorer: str
    slack: float
    max_beam: int | None
    baseline: dict[str, float] | None  # see `living.Living`; None in format 1
    model: MoNNConfig | None
    task: str | None
    item_features: Any  # pytree of [n, ...] as of `encode_items`, zeros in free rows; or None


def write(path, content: Content) -> None:
    """Write atomically: the name appears when the file is complete.

    Raises:
      ValueError: `params` or `item_features` are neither None nor nested dicts with string keys
        without "/".
    """
    arrays = {f"index/{name}": value for name, value in content.index._asdict().items()}
    arrays |= {"item_vectors": content.item_vectors, "item_ids": content.item_ids}
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
        "model": None if content.model is None else dataclasses.asdict(content.model),
        "task": content.task,
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
    return Content(
        index=Index(*(jnp.asarray(arrays[f"index/{name}"]) for name in Index._fields)),
        item_vectors=arrays["item_vectors"],
        item_ids=arrays["item_ids"],
        params=_unflatten("params", arrays) if header["has_params"] else None,
        config=LTIConfig(**header["config"]),
        scorer=header["scorer"],
        slack=header["slack"],
        max_beam=header["max_beam"],
        baseline=header.get("baseline"),
        model=from_dict(header["model"]) if header.get("model") else None,
        task=header.get("task"),
        item_features=_unflatten("item_features", arrays) or None,
    )


def _flatten(prefix, tree):
    flat = {}
    for path, value in jax.tree_util.tree_leaves_with_path(tree):
        keys = [getattr(entry, "key", None) for entry in path]
        if not all(isinstance(key, str) and "/" not in key for key in keys):
            raise ValueError(f"{prefix} must be nested dicts with plain string keys, got {path}")
        flat["/".join([prefix, *keys])] = value
    return flat


def _unflatten(prefix, arrays):
    tree = {}
    for name, value in arrays.items():
        first, *keys = name.split("/")
        if first != prefix or not keys:
            continue
        inner = tree
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = jnp.asarray(value)
    return tree
