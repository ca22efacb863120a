"""Whether the parts of a retriever from a folder belong together.

Digests tell that files are as they were saved. They tell nothing of a folder that somebody made:
its parts are looked at before a search reads them, which would else answer anything.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hsnn_jax.descent.recall import Tail
from hsnn_jax.lists import ids as of_ids
from hsnn_jax.lists.checks import as_vectors
from hsnn_jax.lists.index import Index, extents_of, positions_of
from hsnn_jax.monn.config import MoNNConfig, TowerConfig
from hsnn_jax.monn.network import init_monn
from hsnn_jax.nodes.beam_aware import Routes
from hsnn_jax.nodes.config import LTIConfig
from hsnn_jax.serving.encoders import LevelModels, level_models, nodes_in


def config_of(said: Mapping[str, Any]) -> LTIConfig:
    """Make the configuration that a header says.

    Raises:
      ValueError: a value is of another type than the configuration's, or out of range.
    """
    usual = LTIConfig()
    for name, value in said.items():
        was = getattr(usual, name)
        numbers = value if isinstance(value, list) else [value]
        kind = int if was is None else type(was)  # nodes have no number by default
        if not all(_is(each, kind) or (was is None and each is None) for each in numbers):
            raise ValueError(f"{name}: expected a value such as {was!r}, found {value!r:.60}")
    return LTIConfig(**said)


def check_settings(header: Mapping[str, Any]) -> None:
    """Refuse settings of a retriever that are none.

    Raises:
      ValueError: there are such.
    """
    beam = header["max_beam"] if isinstance(header["max_beam"], list) else [header["max_beam"]]
    baseline = {} if header["baseline"] is None else header["baseline"]
    sound = {
        "slack": _is(header["slack"], float) and 1 <= header["slack"] < 1e9,
        "max_beam": all(each is None or (_is(each, int) and 0 < each < 2**31) for each in beam),
        "baseline": all(_is(value, float) for value in baseline.values()),
        "nested": _is(header["nested"], bool),
        "has_params": _is(header["has_params"], bool),
        "scorer": _is(header["scorer"], str),
    }
    if header["pool"] is not None:
        pool = header["pool"]
        sound["pool"] = _is(pool["size"], int) and 0 < pool["size"] < 2**31
        sound["pool"] &= _is(pool["nodes"], bool) and _is(pool["has_params"], bool)
    for name, is_so in sound.items():
        if not is_so:
            raise ValueError(f"{name}: expected a setting, found {header[name]!r:.60}")


def check_model(config: MoNNConfig, arrays: int) -> None:
    """Refuse a model of more layers than so many arrays hold, before a layer each is made.

    Raises:
      ValueError: it has more.
    """
    for each in (config, config.user_tower, config.item_tower, config.interaction_tower):
        for name, value in dataclasses.asdict(each).items():
            kind = type(getattr(each, name))
            if kind is int and not (_is(value, int) and value < 2**31):
                raise ValueError(f"{name}: expected an integer, found {value!r:.60}")
        layers = each.num_layers if isinstance(each, TowerConfig) else each.overarch_layers
        if layers > arrays:
            raise ValueError(f"layers: expected at most {arrays}, found {layers}")


def models_of(settings: Mapping[str, Any], config: LTIConfig) -> LevelModels:
    """Return what scores the levels of a retriever of these settings.

    Raises:
      ValueError: they do not fit together.
    """
    nested = settings["nested"] or isinstance(settings["model"], tuple)
    nodes_in(settings["params"], config, model=settings["model"])
    return level_models(
        config.num_levels + 1 if nested else 2,
        scorer=settings["scorer"],
        model=settings["model"],
        params=settings["params"],
        task=settings["task"],
        pool=settings.get("candidates"),
    )


def check(content: Any, models: LevelModels) -> None:
    """Refuse arrays that do not belong together.

    Args:
      content: an `artefact.Content`.
      models: what scores its levels.

    Raises:
      ValueError: they do not.
    """
    indexes = (*content.coarser, content.index)
    if len(indexes) != (len(models.scorers) - 1 if content.nested else 1):
        raise ValueError(f"levels: expected {len(models.scorers)}, found {len(indexes)} indexes")
    check_indexes(indexes, ids=content.item_ids, item_vectors=content.item_vectors)
    check_scorers(models, content.model, width=content.item_vectors.shape[1])
    if bool(models.models) != (content.item_features is not None):
        raise ValueError("item_features: expected some with a model alone, found others")
    check_rows("item_features", content.item_features, rows=len(content.item_ids))
    if content.node_features is not None:
        for index, features in zip(indexes, content.node_features, strict=True):
            check_rows("node_features", features, rows=len(index.nodes))
    if content.tail is not None:
        check_tail(Tail(**content.tail), len(content.index.nodes))
    if content.routes is not None:
        check_routes(Routes(**content.routes), len(content.index.nodes))


def check_indexes(indexes: tuple[Index, ...], *, ids: np.ndarray, item_vectors: np.ndarray) -> None:
    """Refuse indexes that do not list what they say, or not the nodes of the next one.

    Args:
      indexes: of all levels, the coarsest first.
      ids: of the items, by row.
      item_vectors: by row.

    Raises:
      ValueError: they do not.
    """
    rows = [*(len(finer.nodes) for finer in indexes[1:]), len(ids)]
    width = as_vectors("item_vectors", item_vectors).shape[1]
    if len(item_vectors) != len(ids):
        raise ValueError(f"item_ids: expected {len(item_vectors)}, found {len(ids)}")
    for index, listed in zip(indexes, rows, strict=True):
        _check_index(index, listed, width=width)
    if ids.dtype != object and ids.dtype.kind != "i":
        raise ValueError(f"item_ids: expected integers, found {ids.dtype}")
    there = ~of_ids.free(ids)
    if (there != (np.asarray(indexes[-1].positions) < indexes[-1].lists.size)).any():
        raise ValueError("item_ids: expected one per listed row, found others")
    if len(set(ids[there].tolist())) < there.sum():
        raise ValueError("item_ids: expected distinct ones, found one twice")


def _check_index(index: Index, rows: int, *, width: int) -> None:
    nodes, lists = as_vectors("nodes", index.nodes, width=width), np.asarray(index.lists)
    if lists.ndim != 2 or len(lists) != len(nodes) or lists.dtype != np.int32 or not lists.size:
        found = f"{lists.dtype} of shape {list(lists.shape)}"
        raise ValueError(f"lists: expected int32 of {len(nodes)} rows, found {found}")
    listed = lists[lists >= 0]
    if lists.min() < -1 or lists.max() >= rows or len(np.unique(listed)) < len(listed):
        raise ValueError(f"lists: expected rows below {rows}, each once, found others")
    for name, expected in {
        "counts": (lists >= 0).sum(axis=1),
        "extents": np.asarray(extents_of(jnp.asarray(lists))),
        "positions": positions_of(lists, rows),
    }.items():
        found = np.asarray(getattr(index, name))
        if found.dtype != np.int32 or not np.array_equal(found, expected):
            raise ValueError(f"{name}: expected those of the lists, found others")
    of_nodes = np.asarray(index.representatives)
    if of_nodes.dtype != np.int32 or of_nodes.shape != (len(nodes),):
        found = f"{of_nodes.dtype} of shape {list(of_nodes.shape)}"
        raise ValueError(f"representatives: expected int32 of shape [{len(nodes)}], found {found}")
    if of_nodes.min() < -1 or of_nodes.max() >= rows:
        raise ValueError(f"representatives: expected -1 to {rows - 1}, found others")
    if np.shape(index.overflow) or np.asarray(index.overflow).dtype != np.int32:
        raise ValueError(f"overflow: expected int32 [], found {index.overflow!r:.60}")


def check_scorers(models: LevelModels, model: Any, *, width: int) -> None:
    """Refuse parameters that are not those of the models, or that the scorer cannot read.

    What towers of the caller's own read is not known before a request.

    Args:
      models: with their parameters.
      model: as it was saved: None, or one or several of `MoNNConfig` or of names of towers.
      width: of the items' vectors.

    Raises:
      ValueError: they are not, or hold NaN or infinity.
    """
    _check_finite((models.params, models.ensemble))
    key = jax.eval_shape(lambda: jax.random.key(0))
    for each, params in zip(model if isinstance(model, tuple) else (model,), models.params):
        if not isinstance(each, MoNNConfig):
            continue
        wanted = jax.eval_shape(lambda key, each=each: init_monn(key, each), key)
        if _shapes(wanted) != _shapes(params):
            raise ValueError("params: expected those of the model, found others")
    users = jax.ShapeDtypeStruct((1, width), jnp.float32)
    items = jax.ShapeDtypeStruct((1, 1, width), jnp.float32)
    asked = [] if models.models else [(models.scorers[-1], models.params[-1])]
    if models.pool is not None:
        _check_finite(models.pool.params)
        asked.append((models.pool.scorer, models.pool.params))
    for scorer, params in asked:
        try:
            scores = jax.eval_shape(scorer, params, users, items)
        except Exception as error:  # whatever the caller's scorer raises
            expected = f"what {scorer.__name__} reads"
            raise ValueError(f"params: expected {expected}, found others: {error}") from error
        if scores.shape != (1, 1) or not jnp.issubdtype(scores.dtype, jnp.floating):
            raise ValueError(f"scores: expected floats of shape [1, 1], found {scores}")


def check_tail(tail: Tail, nodes: int) -> None:
    """Refuse a calibration of other sizes.

    Raises:
      ValueError: it is one, or it holds NaN or infinity.
    """
    pairs = len(tail.raw), len(tail.tolerances)
    sizes = (3, nodes, 5, pairs[0], pairs[0], pairs[1], pairs[1])
    for name, array, size in zip(Tail._fields, tail, sizes, strict=True):
        if np.shape(array) != (size,) or np.asarray(array).dtype != np.float32:
            raise ValueError(
                f"tail: expected {size} of {name}, found shape {list(np.shape(array))}"
            )
    _check_finite(tail)


def check_rows(name: str, tree: Any, *, rows: int) -> None:
    """Refuse features that are not one per row, or not finite.

    Raises:
      ValueError: they are that.
    """
    for leaf in jax.tree.leaves(tree):
        if not np.ndim(leaf) or len(leaf) != rows:
            raise ValueError(f"{name}: expected {rows} rows, found shape {list(np.shape(leaf))}")
    _check_finite(tree)


def check_routes(routes: Routes, nodes: int) -> None:
    """Refuse routes of other nodes.

    Raises:
      ValueError: they are that, or hold NaN or infinity.
    """
    check_rows("routes", routes.nodes, rows=nodes)
    _check_finite(routes.weights)
    if np.shape(routes.weights["log_scale"]) or np.shape(routes.nodes["bias"]) != (nodes,):
        raise ValueError(f"routes: expected those of {nodes} nodes, found others")


def _check_finite(tree: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if np.asarray(leaf).dtype.kind == "f" and not np.isfinite(np.asarray(leaf)).all():
            name = jax.tree_util.keystr(path)
            raise ValueError(f"{name}: expected finite numbers, found NaN or infinity")


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def _shapes(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}
