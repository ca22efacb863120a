"""A living index of several levels: items come and go in the last one, nodes follow them.

The coarser indexes list nodes, which stay between builds. What changes with the items is which
of them represents a node, and so what a model reads of the node.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from hsnn_jax.descent.beam import open_counts
from hsnn_jax.descent.descend import Level
from hsnn_jax.descent.recall import Tail
from hsnn_jax.descent.sharded import shard_index
from hsnn_jax.distance import Distance, pairwise_distance
from hsnn_jax.lists import living
from hsnn_jax.lists.edits import batches, padded
from hsnn_jax.lists.ids import with_free_rows
from hsnn_jax.lists.index import Index, Tiles
from hsnn_jax.lists.index import stats as stats_of_index
from hsnn_jax.lists.levels import build_levels, nodes_of_items
from hsnn_jax.lists.living import Living
from hsnn_jax.lists.wide import vectors_of_list
from hsnn_jax.monn.scorers import dot
from hsnn_jax.nodes.beam_aware import Routes, fit_routes_to_exact
from hsnn_jax.serving.encoders import LevelModels
from hsnn_jax.serving.side import Side

_LAST = np.iinfo(np.int32).max


class Nested(NamedTuple):
    """All levels at one moment, for whoever reads them."""

    coarser: tuple[Index, ...]  # the coarsest first; they list nodes
    items: Living  # the last index
    representatives: tuple  # int32 [K] a level of nodes: rows of items, -1 for none; for models
    node_features: tuple  # [K, ...] a level of nodes: what the level's scorer reads
    routes: Routes | None = None  # of one index: what its nodes are scored by instead
    tail: Tail | None = None  # of one index: what recall is estimated by, see `calibration`
    side: Side | None = None  # of one index: items that are in no list yet, one or more

    @property
    def indexes(self) -> tuple[Index, ...]:
        """The indexes of all levels, the coarsest first."""
        return (*self.coarser, self.items.index)


def build(
    vectors: ArrayLike,
    nodes: Sequence,
    *,
    slack: float,
    reserve: int = 0,
    distance: Distance = "l2",
) -> tuple[Index, ...]:
    """List nodes and items: `build_levels` of `residual_nodes`' nodes, float [K_l, d] a level.

    There, each node of a level has equally many below it, side by side.
    """
    sizes = itertools.pairwise(of_level.shape[0] for of_level in nodes)
    parents = [np.repeat(np.arange(coarse), fine // coarse) for coarse, fine in sizes]
    return build_levels(
        vectors, nodes, parents=(*parents, None), slack=slack, reserve=reserve, distance=distance
    )


def of_items(
    vectors: ArrayLike,
    ids: np.ndarray,
    *,
    nodes: tuple,
    models: LevelModels,
    features: Any,
    slack: float,
    reserve: int,
    distance: Distance,
) -> Nested:
    """Build all indexes over items, with `reserve` free rows after them.

    Args:
      vectors: float [n, d].
      ids: [n], the caller's, see `lists.ids`.
      nodes: float [K_l, d] a level.
      models: see `LevelModels`.
      features: carried with the items, see `LevelModels.items`.
      slack, reserve, distance: see `build_index`.
    """
    *coarser, index = build(vectors, nodes, slack=slack, reserve=reserve, distance=distance)
    ids = with_free_rows(ids, reserve)
    given = {"features": features, "wide": reads_wide(models)}
    items = living.start(index, vectors, ids=ids, distance=distance, **given)
    return start(coarser, items, models=models, distance=distance)


def start(
    coarser: Sequence[Index],
    items: Living,
    *,
    models: LevelModels,
    distance: Distance = "l2",
    node_features: Any = None,
) -> Nested:
    """Join the coarser indexes to the living one of the items.

    Args:
      coarser: `Index` of each level above the last.
      items: carries what `LevelModels.items` returned.
      models: see `LevelModels`.
      distance: by which a node's representative is the nearest.
      node_features: of an index that was saved; made now by default.
    """
    rows = () if items.features is None else _representatives(coarser, items, distance)
    if node_features is None:
        node_features = _node_features(coarser, items, models, rows)
    return Nested(tuple(coarser), items, rows, node_features)


def follow(
    now: Nested,
    items: Living,
    *,
    models: LevelModels,
    changed: ArrayLike | None = None,
    distance: Distance = "l2",
) -> Nested:
    """Return the levels after an update of the items, without a side list.

    Only nodes that got another representative are encoded anew.

    Args:
      now: stays as it is.
      items: what `living.add`, `remove` or `reassign` made of `now.items`.
      models: see `LevelModels`.
      changed: rows of items that are no longer what they were.
      distance: by which a node's representative is the nearest.
    """
    if len(models.models) < 2:
        updated = start(now.coarser, items, models=models, distance=distance)
        return updated._replace(routes=now.routes, tail=now.tail)
    rows, updated = _representatives(now.coarser, items, distance), []
    for level, pair in enumerate(zip(rows, now.representatives)):
        if models.models[level].nodes is not None:  # nodes stay where they are
            updated.append(now.node_features[level])
            continue
        new, old = map(np.asarray, pair)
        stale = new != old if changed is None else (new != old) | np.isin(new, changed)
        stale = np.flatnonzero(stale)
        updated.append(_encoded(models, level, items, new, stale, now.node_features[level]))
    return Nested(now.coarser, items, rows, tuple(updated))


def place(now: Nested, mesh: tuple[Mesh, str]) -> Nested:
    """Spread lists of items, and what is held of them, over a mesh axis; the rest is everywhere.

    Raises:
      ValueError: see `shard_index`.
    """
    items = now.items
    index, (tiles, features) = shard_index(
        items.index, (items.tiles, items.features), mesh=mesh[0], axis=mesh[1]
    )
    items = items._replace(index=index, tiles=tiles, features=features)
    everywhere = NamedSharding(mesh[0], PartitionSpec())
    rest = {name: getattr(now, name) for name in ("coarser", "node_features", "routes", "tail")}
    return now._replace(items=items, **jax.device_put(rest, everywhere))


def reads_wide(models: LevelModels) -> bool:
    """Tell whether vectors of items are held width-major: where inner products alone read them."""
    return not models.models and models.pool is None and models.scorers[-1] is dot


def levels(
    now: Nested,
    models: LevelModels,
    *,
    users: Any,
    vectors: jax.Array | None = None,
    by_row: bool = False,
) -> tuple[Level, ...]:
    """Return the levels of a request.

    Args:
      now: the state.
      models: see `LevelModels`.
      users, vectors: from `LevelModels.users`.
      by_row: items as rows, for brute force, instead of `Tiles`.
    """
    held, items = now.items, now.items.tiles
    if held.features is not None:
        items = Tiles(held.features.features["encoded"])
    if by_row and held.features is None:
        items = living.item_vectors(held)
    elif by_row:
        items = jax.tree.map(functools.partial(living.by_row, held.index), items.features)
    features = (*now.node_features, items)
    found = tuple(Level(*each) for each in zip(models.scorers, models.params, users, features))
    if models.pool is not None and models.pool.nodes and vectors is not None:
        nodes = (models.pool.level(vectors, index) for index in now.indexes)
        found = *nodes, found[-1]
    if now.routes is None:
        return found
    first = found[0]
    return now.routes.level(first.scorer, first.params, users=first.users), *found[1:]


def levels_for_routes(
    now: Nested, models: LevelModels, *, users: tuple, vectors: jax.Array | None
) -> tuple[Level, Level]:
    """Return the level of nodes without routes, and that of the items as rows.

    Raises:
      ValueError: there are several levels of nodes or models.
    """
    if len(now.indexes) > 1 or models.ensemble is not None or len(models.models) > 1:
        raise ValueError(
            "fit_routes: expected one level of nodes that the items' scorer scores, found "
            f"{len(now.indexes)} levels and {max(len(models.models), 1)} models"
        )
    given = {"users": users, "vectors": vectors, "by_row": True}
    nodes, items = levels(now._replace(routes=None), models, **given)
    return nodes, items


def with_routes(
    now: Nested, models: LevelModels, *, asked: Any, **options: Any
) -> tuple[Nested, list[float]]:
    """Learn routes from the exact answers to a request; return the state with them and losses.

    Args:
      now: stays as it is.
      models: see `LevelModels`.
      asked: `request.Request`; its users are such as will search.
      **options: tx, config and key of `fit_routes_to_exact`.

    Raises:
      ValueError: see `levels_for_routes`.
      FloatingPointError: training diverged.
    """
    nodes, items = levels_for_routes(now, models, users=asked.users, vectors=asked.vectors)
    given = {"index": now.items.index, "k": asked.k, "exclude": asked.exclude}
    routes, losses = fit_routes_to_exact(nodes, items, **given, **options)
    return now._replace(routes=routes), losses


def nodes(now: Nested, nested: bool) -> Any:
    """Return the nodes of all levels where several are searched, else those of the last one."""
    of_levels = tuple(index.nodes for index in now.indexes)
    return of_levels if nested else of_levels[-1]


def stats(now: Nested) -> dict[str, float]:
    """Return `index.stats` of the last index, and how the items spread over the coarser nodes.

    Level n's `used_nodes`, `perplexity` and `imbalance` are under `level_n_...`, from 1. `bytes`
    are those of all arrays: lists, vectors and whatever scorers read, free slots included.
    """
    found = stats_of_index(now.items.index)
    arrays = now.indexes, now.items.tiles, now.items.features, now.node_features
    found["bytes"] = sum(x.nbytes for x in jax.tree.leaves(arrays))
    for number, counts in enumerate(open_counts(now.indexes, None)[:-1], start=1):
        below = stats_of_index(now.coarser[number - 1]._replace(counts=counts))
        for name in ("used_nodes", "perplexity", "imbalance"):
            found[f"level_{number}_{name}"] = below[name]
    return found


def _representatives(coarser, items, distance):
    if not coarser:
        return (items.index.representatives,)
    return _nearest_items(coarser, items.index, items.tiles, distance=distance)


@functools.partial(jax.jit, static_argnames="distance")
def _nearest_items(coarser, index, tiles, *, distance):
    """Do what `levels.representative_items` does, list by list: nothing is gathered."""
    above = nodes_of_items(coarser)
    centres = [level.nodes[node] for level, node in zip(coarser, above)]

    def of_list(arguments):
        ids, held, centres = arguments
        vectors = vectors_of_list(held, ids.size)
        gaps = pairwise_distance(vectors, centres, distance=distance)
        gaps = jnp.where(ids[:, None] >= 0, gaps, jnp.inf)
        least = jnp.min(gaps, axis=0, keepdims=True)
        rows = jnp.where(gaps == least, ids[:, None], _LAST)  # ties go to the lower row
        return least[0], jnp.min(rows, axis=0)

    gaps, rows = jax.lax.map(of_list, (index.lists, tiles, jnp.stack(centres, axis=1)))
    found = []
    for level, node in enumerate(above):
        gap, size = gaps[:, level], coarser[level].nodes.shape[0]
        least = jax.ops.segment_min(gap, node, size)
        row = jnp.where(gap == least[node], rows[:, level], _LAST)
        row = jax.ops.segment_min(row, node, size)
        found.append(jnp.where(least < jnp.inf, row, -1))
    return (*found, index.representatives)


def _node_features(coarser, items, models, rows):
    """Return what the scorers read of all nodes."""
    if items.features is None:
        return tuple(index.nodes for index in (*coarser, items.index))
    found, index = [], items.index
    for level, (of_level, own) in enumerate(zip(rows, (*coarser, index))):
        features = models.own_nodes(level, own.nodes)
        if features is None and len(models.models) == 1:
            features = _gather(index, items.features.features["encoded"], of_level)
        elif features is None:
            stale = np.arange(of_level.size)
            features = _encoded(models, level, items, np.asarray(of_level), stale)
        found.append(features)
    return tuple(found)


def _encoded(models, level, items, rows, stale, features=None):
    """Put nodes' encoded representatives into a level's features.

    Args:
      models: a model a level.
      level: which level.
      items: `Living`.
      rows: int32 [K], the representative of each node.
      stale: int [b], the nodes to encode.
      features: [K, ...]; without them all nodes are stale.
    """
    for part, size in batches(stale.size):
        nodes = padded(stale[part].astype(np.int32), size, value=rows.size)
        of_nodes = rows[np.minimum(nodes, rows.size - 1)]
        inputs = _gather(items.index, items.features.features["inputs"], of_nodes)
        values = models.nodes(level, inputs)
        if features is None:
            features = jax.tree.map(lambda x: jnp.zeros((rows.size, *x.shape[1:]), x.dtype), values)
        features = _put(features, nodes, values)
    return features


@jax.jit
def _gather(index, tiles, rows):
    """Return what is carried of items by row, [b, ...]; of any for row -1."""
    slots = index.positions[jnp.maximum(rows, 0)]
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]).at[slots].get(mode="clip"), tiles)


@jax.jit
def _put(features, nodes, values):
    return jax.tree.map(lambda x, new: x.at[nodes].set(new, mode="drop"), features, values)
