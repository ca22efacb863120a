"""Build the state of a retriever: nodes that are given, or k-means' spread over what crowds."""

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from hsnn_jax.chunks import num_rows
from hsnn_jax.lists import living
from hsnn_jax.lists.drift import MOST_OVERFLOW, SkewWarning
from hsnn_jax.lists.ids import as_ids
from hsnn_jax.lists.index import Index, stats
from hsnn_jax.nodes.config import LTIConfig
from hsnn_jax.nodes.crowding import split_crowded
from hsnn_jax.nodes.fit import fit_index
from hsnn_jax.nodes.lti import init_params, levels_of
from hsnn_jax.serving import state
from hsnn_jax.serving.calibration import calibrate
from hsnn_jax.serving.encoders import LevelModels, models_of, sums_of_codes
from hsnn_jax.serving.request import key_of
from hsnn_jax.serving.state import Nested

_PER_NODE = 64  # items that k-means learns a node from: more take longer and find the same
_LEAST = 2**14  # items of which all are learned from


def plan_of(retriever: Any, mesh: tuple[Mesh, str] | None) -> dict[str, Any]:
    """Return what a retriever's nodes are learned by, for `fit` and `build`.

    Args:
      retriever: see `Retriever`; its attributes are read.
      mesh: and its axis, over which the lists are to be spread.
    """
    devices = 1 if mesh is None else mesh[0].shape[mesh[1]]
    given = {"models": models_of(retriever), "by_level": retriever.nested, "devices": devices}
    return given | {"config": retriever.config}


def fit(
    user_vectors: Any,
    item_vectors: Any,
    *,
    models: LevelModels,
    config: LTIConfig,
    by_level: bool,
    devices: int,
    **options: Any,
) -> tuple[Any, list[dict[str, float]]]:
    """Learn nodes by LTI, see `Retriever.fit_nodes`; return them, for `build`, and records.

    Args:
      user_vectors, item_vectors: or what the models read.
      models, config, by_level, devices: see `build`.
      **options: positives, tx and key of `fit_index`.
    """
    users = models.user_vectors("user_vectors", user_vectors)
    items, _ = models.items("item_vectors", item_vectors)
    config = config.for_items(items.shape[0], multiple=devices)
    fitted = fit_index(users, items, config=config, **options)
    return sums_of_codes(fitted.params["nodes"], config, by_level=by_level), fitted.metrics


def items_with_ids(
    models: LevelModels, items: Any, *, ids: Any
) -> tuple[np.ndarray | jax.Array, np.ndarray, Any]:
    """Return items as `build` takes them, with the caller's ids, rows by default.

    Raises:
      ValueError: see `LevelModels.items` and `lists.ids.as_ids`.
    """
    vectors, carried = models.items("item_vectors", items)
    rows = vectors.shape[0]
    return vectors, as_ids("item_ids", np.arange(rows) if ids is None else ids, size=rows), carried


def check_items(items: Any, ids: Any, *, config: LTIConfig) -> None:
    """Refuse what `build` would refuse after a training, where it can be told before.

    Args:
      items: what the models read.
      ids: [n], the caller's, or None.
      config: of the nodes.

    Raises:
      ValueError: ids are no ids of these items, or there are more nodes than items.
    """
    rows = num_rows(items)
    if ids is not None:
        as_ids("item_ids", ids, size=rows)
    config.for_items(rows)


def build(
    items: tuple[Any, np.ndarray, Any],
    nodes: Any,
    *,
    config: LTIConfig,
    models: LevelModels,
    slack: float,
    reserve: int,
    by_level: bool,
    devices: int,
    seed: int,
    users: Any = None,
) -> Nested:
    """List items by node, warn where the lists cannot hold them near home, and calibrate recall.

    Args:
      items: (vectors float [n, d], the caller's ids [n], features or None), see `state.of_items`.
      nodes: float [K, d], or those of each level where several are searched; None for k-means'.
      config: of the nodes.
      models: see `LevelModels`.
      slack, reserve: see `index.build_index`.
      by_level: whether residual levels are searched one after the other.
      devices: of a mesh, which divide a default number of nodes.
      seed: of k-means and of the calibration.
      users: that it draws from, see `calibration.calibrate`.

    Raises:
      ValueError: see `Retriever.build_index`.
    """
    vectors, ids, features = items
    key_of(seed)
    if nodes is None:
        config = config.for_items(vectors.shape[0], multiple=devices)
        nodes = _learned(vectors, config, slack, reserve, by_level, seed)
    now = state.of_items(
        vectors,
        ids,
        nodes=levels_of(nodes),
        models=models,
        features=features,
        slack=slack,
        reserve=reserve,
        distance=config.distance,
    )
    _warn_of_skew(now.items.index)
    return calibrate(now, models, users=users, seed=seed)


def held(now: Nested) -> tuple[tuple[np.ndarray, np.ndarray, Any], int]:
    """Return the items of a state, as `build` takes them, and its free rows.

    Raises:
      ValueError: there are no items.
    """
    items = living.items_of(now.items)
    if not items[1].size:
        raise ValueError("index: expected items to rebuild it from, found none")
    return items, now.items.ids.size - items[1].size


def _learned(vectors, config, slack, reserve, by_level, seed):
    sample = _sampled(vectors, config, seed)
    start = init_params(key_of(seed), jnp.asarray(sample), config=config)["nodes"]
    nodes = sums_of_codes(start, config, by_level=by_level)
    if by_level:  # a node of a finer level is its parent's, wherever it lies
        return nodes
    capacity = math.ceil(slack * (len(vectors) + reserve) / nodes.shape[0])
    capacity = capacity * len(sample) // len(vectors)
    return split_crowded(sample, nodes, capacity=capacity, seed=seed, distance=config.distance)


def _sampled(vectors, config, seed):
    """Return what k-means learns from: all items, or of many a number in proportion to nodes."""
    most = max(_PER_NODE * math.prod(config.level_sizes), _LEAST)
    if len(vectors) <= most:
        return vectors
    rows = np.random.default_rng(seed).choice(len(vectors), most, replace=False)
    return np.asarray(vectors)[np.sort(rows)]


def _warn_of_skew(index: Index) -> None:
    found = stats(index)
    if found["overflow"] > MOST_OVERFLOW * found["items"]:
        warnings.warn(
            f"{found['overflow']} of {found['items']} items lie away from their nearest node, "
            f"whose list of {found['capacity']} slots is full: a search looks for them last; more "
            "nodes, a larger slack or rebuild() may bring them home",
            SkewWarning,
            stacklevel=5,
        )
