"""What a folder holds of a retriever: indexes, items, ids, parameters and model.

Ids that are no integers are JSON among the arrays: strings, and integers beside them.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from hsnn_jax import folder
from hsnn_jax.descent.recall import Tail
from hsnn_jax.lists import living
from hsnn_jax.lists.index import Index
from hsnn_jax.monn.config import MoNNConfig, from_dict
from hsnn_jax.monn.model import Towers
from hsnn_jax.monn.scorers import dot
from hsnn_jax.nodes.beam_aware import Routes
from hsnn_jax.nodes.config import LTIConfig
from hsnn_jax.plain_arrays import reading
from hsnn_jax.serving import checking, state
from hsnn_jax.serving.encoders import LevelModels, one_or_several
from hsnn_jax.serving.pool import Pool
from hsnn_jax.serving.state import Nested
from hsnn_jax.serving.trees import flatten, unflatten

KIND = folder.Kind("retriever", "retriever.json")
_FORMAT = "hsnn_jax.retriever/12"

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
    model: MoNNConfig | str | tuple[MoNNConfig | str, ...] | None  # of towers the name
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
    settings["model"] = _each(_named, retriever.model)
    several = isinstance(retriever.model, tuple)
    if several:  # their nodes are those of the indexes
        params = {name: value for name, value in settings["params"].items() if name != "nodes"}
        params["models"] = tuple({} if each is None else each for each in params["models"])
        settings["params"] = params
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


def _each(function, model):
    """Apply a function to a model, or to each of several."""
    return tuple(map(function, model)) if isinstance(model, tuple) else function(model)


def _named(model):
    return model.name if isinstance(model, Towers) else model


def _pool_fields(pool):
    if pool is None:
        return None
    named = {"scorer": pool.scorer.__name__, "has_params": pool.params is not None}
    return {"size": pool.size, "nodes": pool.nodes} | named


def settings_of(
    content: Content,
    path: str | os.PathLike,
    *,
    scorer: Callable | None,
    cheap: Callable | None = None,
    model: Any = None,
) -> dict[str, Any]:
    """Return the arguments of a retriever that is loaded; with a model, it makes its own scorer.

    Raises:
      ValueError: the content was saved with another scorer, another that goes first or other
        towers; or its parts do not belong together, and the file is named.
    """
    if content.model is None:
        scorer = scorer or dot
    if scorer is not None:
        _check_name("scorer", scorer, content.scorer, path)
    settings = {name: getattr(content, name) for name in _SETTINGS}
    settings |= {"scorer": scorer if content.model is None else None}
    settings["model"] = _model_of(content.model, given=model, path=path)
    if content.pool is None:
        return _checked(path, content, settings)
    cheap = cheap or dot
    _check_name("candidates", cheap, content.pool["scorer"], path)
    pool = Pool(content.pool["size"], cheap, content.pool_params, content.pool["nodes"])
    return _checked(path, content, settings | {"candidates": pool})


def _model_of(saved, *, given, path):
    """Return the model that was saved: a MoNN by itself, towers as they are given."""
    if given is None and not any(isinstance(each, str) for each in (saved, *_several(saved))):
        return saved
    given = one_or_several(given)
    if _each(_named, given) != saved:
        expected, found = (_described(_each(_named, each)) for each in (saved, given))
        raise ValueError(f"model: expected {expected}, with which {path} was saved, found {found}")
    return given


def _several(model):
    return model if isinstance(model, tuple) else ()


def _described(model):
    return _each(lambda x: f"Towers named {x!r}" if isinstance(x, str) else repr(x)[:60], model)


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
    """Write a folder, whole or not at all, see `folder.write`.

    Raises:
      ValueError: something else is at the path; ids are neither strings nor integers; `params` or
        features are neither None nor nested dicts, with string keys that have no "/" and do not
        start with "[", or tuples.
    """
    folder.write(path, KIND, arrays=_arrays_of(content), header=_header_of(content))


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
        "model": _each(_said_of, content.model),
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
    path = folder.found(path)
    header, arrays = folder.read(path, KIND, form=_FORMAT)
    with reading(path / KIND.header):
        checking.check_settings(header)
        settings = {
            "config": checking.config_of(header["config"]),
            "max_beam": _tuple(header["max_beam"]),
            "model": _model(header["model"], len(arrays)),
        }
        settings |= {name: header[name] for name in _SAID}
    with reading(path / folder.ARRAYS):
        return Content(
            coarser=tuple(Index(**fields) for fields in unflatten("coarser", arrays)),
            index=Index(**unflatten("index", arrays)),
            item_vectors=arrays["item_vectors"],
            item_ids=_ids_of(arrays["item_ids"]),
            params=_params(settings["model"], arrays) if header["has_params"] else None,
            item_features=unflatten("item_features", arrays) or None,
            node_features=unflatten("node_features", arrays) or None,
            routes=unflatten("routes", arrays) or None,
            tail=unflatten("tail", arrays) or None,
            pool_params=_pool_params(header["pool"], arrays),
            **settings,
        )


def _checked(path, content, settings):
    """Return the settings if what was read belongs together, before a search reads it."""
    path = folder.found(path)
    with reading(path / KIND.header):
        models = checking.models_of(settings, content.config)
    with reading(path / folder.ARRAYS):
        checking.check(content, models)
    return settings


def _params(model, arrays):
    params = unflatten("params", arrays)
    if not isinstance(model, tuple):
        return params
    of_models = params.get("models", ())  # without the last ones that have none
    return params | {"models": (*of_models, *(None,) * (len(model) - len(of_models)))}


def _pool_params(pool, arrays):
    return unflatten("pool_params", arrays) if pool and pool["has_params"] else None


def _said_of(model):
    return dataclasses.asdict(model) if isinstance(model, MoNNConfig) else model


def _model(saved, arrays):
    def one(said):
        if said is None or isinstance(said, str):
            return said
        model = from_dict(said)
        checking.check_model(model, arrays)
        return model

    return _each(one, _tuple(saved))


def _tuple(saved):
    return tuple(saved) if isinstance(saved, list) else saved
