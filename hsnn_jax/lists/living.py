"""A living index: items come and go in fixed-capacity lists, without a rebuild or a retrace.

Every update is a function from one `Living` to the next, so that whoever holds the old one
goes on reading it, whole.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hsnn_jax.distance import Distance
from hsnn_jax.lists import ids as of_ids
from hsnn_jax.lists.checks import as_vectors, check_features
from hsnn_jax.lists.drift import measure
from hsnn_jax.lists.edits import BATCHES, batches, discard, insert, padded, relist, widen
from hsnn_jax.lists.index import Index, Tiles, live, pack
from hsnn_jax.lists.wide import WideTiles, pack_wide, vectors_at


class Living(NamedTuple):
    """An index with what it takes to change it."""

    index: Index  # pyright: ignore[reportIncompatibleMethodOverride]  # not tuple's method
    tiles: Tiles | WideTiles  # item vectors, float32 [K, C, d], or width-major
    ids: np.ndarray  # the caller's id in each row, [n]; see `ids`
    rows: of_ids.Table  # the ids present and their rows
    baseline: dict[str, float]  # `measure` of the index when it was built
    features: Tiles | None  # what moves with the items besides their vectors


class New(NamedTuple):
    """Items to list, checked."""

    vectors: np.ndarray  # float32 [b, d]
    ids: np.ndarray  # [b], the caller's, of the kind that the index holds
    features: Any  # pytree of [b, ...], alike those of the items that are listed, or None


def start(
    index: Index,
    item_vectors: ArrayLike,
    *,
    ids: np.ndarray,
    distance: Distance = "l2",
    baseline: dict[str, float] | None = None,
    features: Any = None,
    wide: bool = False,
) -> Living:
    """Make a built index living.

    Args:
      index: from `build_index`, with `reserve` free rows.
      item_vectors: float32 [m, d] of the first m rows, at least the live ones.
      ids: int [n] or object [n], one a row; -1 or None in free rows.
      distance: see `distance.pairwise_distance`.
      baseline: of an index that was saved; measured now by default.
      features: optional pytree of [m, ...] that moves with the items, as what a scorer reads in
        place of their vectors.
      wide: whether vectors are held width-major, as inner products read them the fastest.
    """
    tiles = (pack_wide if wide else pack)(index, jnp.asarray(item_vectors, jnp.float32))
    features = None if features is None else pack(index, features)
    baseline = measure(index, tiles, distance=distance) if baseline is None else baseline
    ids = np.asarray(ids)
    ids = ids if ids.dtype == object else ids.astype(np.int64)
    return Living(index, tiles, ids, of_ids.table_of(ids), baseline, features)


def size(living: Living) -> int:
    """Return how many items the index holds."""
    return len(living.rows.rows)


def add(
    living: Living,
    vectors: ArrayLike,
    *,
    ids: Any,
    distance: Distance = "l2",
    features: Any = None,
) -> Living:
    """List new items, one after the other, each at its nearest node that has a free slot.

    Where there are fewer free rows than items, rows and slots are doubled first, as often as it
    takes: what is compiled for the old shapes is compiled again at its next use.

    Args:
      living: stays as it is.
      vectors: float [b, d].
      ids: [b], the caller's, of the kind that the index holds.
      distance: see `distance.pairwise_distance`.
      features: pytree of [b, ...] where the items have features.

    Raises:
      ValueError: vectors are not finite or not as wide as the nodes; ids are negative, repeated
        or present already; features are missing or differ in shape or type from those of the
        others.
    """
    vectors, ids, features = checked(living, vectors, ids=ids, features=features)
    refuse_known(ids, rows_of(living, ids))
    living = _with_room(living, ids.size)
    rows = np.flatnonzero(of_ids.free(living.ids))[: ids.size].astype(np.int32)
    index, tiles, carried = living.index, living.tiles, living.features
    for part, size in batches(ids.size):
        index, tiles, carried = insert(
            index,
            tiles,
            carried=carried,
            vectors=padded(vectors[part], size, value=0),
            features=jax.tree.map(
                lambda x, part=part, size=size: padded(x[part], size, value=0), features
            ),
            rows=padded(rows[part], size, value=living.ids.size),
            count=part.stop - part.start,
            distance=distance,
        )
    new_ids = living.ids.copy()
    new_ids[rows] = ids
    table = of_ids.with_new(living.rows, ids, rows=rows)
    return living._replace(index=index, tiles=tiles, features=carried, ids=new_ids, rows=table)


def checked(living: Living, vectors: ArrayLike, *, ids: Any, features: Any = None) -> New:
    """Return items as the index holds them, whether it knows their ids or not.

    Raises:
      ValueError: see `add`.
    """
    width = living.index.nodes.shape[1]
    vectors = np.asarray(as_vectors("vectors", vectors, width=width, empty=True))
    ids = of_ids.as_ids("ids", ids, size=vectors.shape[0], like=living.ids)
    features = check_features(features, _held(living), size=ids.size)
    return New(vectors.astype(np.float32), ids, features)


def refuse_known(ids: np.ndarray, found: np.ndarray) -> None:
    """Raise a ValueError if one of ids [b] has been found, at places int [b]; -1 elsewhere."""
    known = ids[found >= 0]
    if known.size:
        raise ValueError(f"ids: expected new ones, found {known[0]}, which the index holds")


def warm_up(living: Living, *, distance: Distance = "l2") -> None:
    """Compile what `add` runs as long as there are free rows; nothing is changed."""
    for size in BATCHES:
        none = blank(living, size)
        insert(
            living.index,
            living.tiles,
            carried=living.features,
            vectors=none.vectors,
            features=none.features,
            rows=np.full(size, living.ids.size, np.int32),
            count=0,
            distance=distance,
        )


def blank(living: Living, size: int) -> New:
    """Return so many items that are none: zeros, and no ids; as those that the index holds."""
    width, ids = living.index.nodes.shape[1], living.ids
    features = jax.tree.map(lambda x: np.zeros((size, *x.shape[2:]), x.dtype), _held(living))
    no_ids = np.full(size, of_ids.blank(ids), ids.dtype)
    return New(np.zeros((size, width), np.float32), no_ids, features)


def _with_room(living, more):
    """Return the index with free rows for so many more items."""
    rows, factor = living.ids.size, 1
    while rows * factor < size(living) + more:
        factor *= 2
    if factor == 1:
        return living
    held = widen(living.index, living.tiles, carried=living.features, factor=factor)
    ids = of_ids.with_free_rows(living.ids, rows * (factor - 1))
    return living._replace(index=held[0], tiles=held[1], features=held[2], ids=ids)


def remove(living: Living, ids: Any, *, distance: Distance = "l2") -> Living:
    """Free the slots and rows of items; a node that loses its representative gets another.

    Args:
      living: stays as it is.
      ids: [b], the caller's.
      distance: see `distance.pairwise_distance`.

    Raises:
      ValueError: ids are repeated or not present.
    """
    ids, rows = _known_rows(living, ids)
    index = living.index
    for part, size in batches(ids.size):
        some = padded(rows[part], size, value=living.ids.size)
        index = discard(index, living.tiles, rows=some, distance=distance)
    new_ids = living.ids.copy()
    new_ids[rows] = of_ids.blank(living.ids)
    table = of_ids.without(living.rows, ids, rows=rows)
    return living._replace(index=index, ids=new_ids, rows=table)


def upsert(
    living: Living,
    vectors: ArrayLike,
    *,
    ids: Any,
    distance: Distance = "l2",
    features: Any = None,
) -> Living:
    """List items as they are now, whether the index holds them already or not; see `add`.

    Args:
      living: stays as it is.
      vectors, ids, distance, features: see `add`.

    Raises:
      ValueError: see `add`; an id that is present is none.
    """
    ids = of_ids.as_ids("ids", ids, like=living.ids)
    living = remove(living, ids[rows_of(living, ids) >= 0], distance=distance)
    return add(living, vectors, ids=ids, distance=distance, features=features)


def reassign(
    living: Living,
    vectors: ArrayLike | None = None,
    *,
    ids: Any = None,
    distance: Distance = "l2",
    features: Any = None,
) -> Living:
    """List all items anew by the rule of `assign`, at nodes that stay where they are.

    Items that overflowed come home where removals have made room, and items whose vectors
    changed move.

    Args:
      living: stays as it is.
      vectors: optional float [b, d], new vectors of some items.
      ids: [b], the caller's, of those.
      distance: see `distance.pairwise_distance`.
      features: pytree of [b, ...] of these items, where items have features.

    Raises:
      ValueError: only one of `vectors` and `ids` is given; vectors are not finite or not as
        wide as the nodes; ids are repeated or not present; features as in `add`.
    """
    if (vectors is None) != (ids is None):
        given, missing = ("ids", "vectors") if vectors is None else ("vectors", "ids")
        raise ValueError(f"{missing}: expected them together with {given}, found none")
    held = item_vectors(living), item_features(living)
    if ids is not None and vectors is not None:
        width = living.index.nodes.shape[1]
        vectors = np.asarray(as_vectors("vectors", vectors, width=width, empty=True))
        ids, rows = _known_rows(living, ids, size=vectors.shape[0])
        features = check_features(features, _held(living), size=ids.size)
        held = jax.tree.map(lambda old, new: _with_rows(old, rows, new), held, (vectors, features))
    given = {"vectors": held[0], "features": held[1], "distance": distance}
    index, tiles, carried = relist(living.index, living.tiles, **given)
    return living._replace(index=index, tiles=tiles, features=carried)


def item_vectors(living: Living) -> jax.Array:
    """Return the vectors by row, float32 [n, d]; zeros in free rows."""
    if isinstance(living.tiles, Tiles):
        return by_row(living.index, living.tiles.features)
    capacity = living.index.lists.shape[1]
    positions = living.index.positions
    rows = vectors_at(living.tiles, node=positions // capacity, column=positions % capacity)
    return jnp.where(live(living.index)[:, None], rows, 0.0)


def item_features(living: Living) -> Any:
    """Return the features by row, a pytree of [n, ...], zeros in free rows; None without any."""
    return jax.tree.map(functools.partial(by_row, living.index), _held(living))


def items_of(living: Living) -> tuple[np.ndarray, np.ndarray, Any]:
    """Return the items held, in the order of their rows.

    Returns:
      (vectors float32 [m, d], ids [m], features [m, ...] or None).
    """
    rows = np.flatnonzero(~of_ids.free(living.ids))
    held = jax.tree.map(
        lambda x: np.asarray(x)[rows], (item_vectors(living), item_features(living))
    )
    return held[0], living.ids[rows], held[1]


def by_row(index: Index, tiles: jax.Array) -> jax.Array:
    """Return what tiles [K, C, ...] hold of each item, [n, ...]; zeros in free rows."""
    flat = tiles.reshape(-1, *tiles.shape[2:])
    return flat.at[index.positions].get(mode="fill", fill_value=0)


def _held(living):
    return None if living.features is None else living.features.features


def _with_rows(held, rows, values):
    held = np.array(held)
    held[rows] = values
    return jnp.asarray(held)


def rows_of(living: Living, ids: ArrayLike) -> np.ndarray:
    """Return the rows of the caller's ids [...], int32; -1 where unknown."""
    return of_ids.rows_of(living.rows, np.asarray(ids))


def drift(living: Living, *, distance: Distance = "l2") -> dict[str, float]:
    """Return `measure` of now, and of the build under names that end in `_at_build`."""
    at_build = {f"{name}_at_build": value for name, value in living.baseline.items()}
    return measure(living.index, living.tiles, distance=distance) | at_build


def _known_rows(living, ids, size=None):
    """Return (ids, their rows)."""
    ids = of_ids.as_ids("ids", ids, size=size, like=living.ids)
    rows = rows_of(living, ids)
    if (rows < 0).any():
        unknown = ids[np.argmin(rows)]
        raise ValueError(f"ids: expected ids that the index holds, found {unknown}")
    return ids, rows
