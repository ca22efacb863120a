"""The side list: the items that came last, which every search scores, until the lists take them.

To list an item copies all lists, since readers go on in the old ones; to put it here copies a few
hundred vectors. The arrays have one size whatever they hold, so that nothing is compiled anew.

The items lie in the order in which they came. Item i has the i-th free row of the lists, which is
the one that it gets when they are merged: ties are broken now as they will be then. (Sums are in
another order than in the lists: equal vectors, one here and one there, may differ in the last bit.)
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hsnn_jax.chunks import by_chunks, values_of
from hsnn_jax.descent.descend import Level, SearchResult
from hsnn_jax.lists import ids as of_ids
from hsnn_jax.lists import living
from hsnn_jax.lists.living import Living, New
from hsnn_jax.monn.scorers import pair_flops, score_all
from hsnn_jax.serving.host import on_host
from hsnn_jax.serving.sizes import width
from hsnn_jax.top_k import top_k

SIZE = 256  # slots; more make merges rarer, and every search longer


class Side(NamedTuple):
    """Items beside the lists; the further slots hold zeros."""

    items: New  # of each slot, on the host
    slots: of_ids.Table  # the ids present and their slots
    rows: np.ndarray  # int32 [SIZE], ascending: the rows that the items are going to have
    read: Any  # on the device: what the scorer reads, a pytree of [SIZE, ...]


class Beside(NamedTuple):
    """What a request asks of the side list."""

    open: np.ndarray  # bool [S, SIZE], which of the slots each user may get
    k: int  # items to return of all, at most the rows and slots that there are


def size(side: Side | None) -> int:
    """Return how many items are beside the lists."""
    return 0 if side is None else len(side.slots.rows)


def room(side: Side | None) -> int:
    """Return how many more items there is room for."""
    return SIZE - size(side)


def blank(lists: Living) -> Side:
    """Return a side list without items, beside these lists."""
    return _made(living.blank(lists, SIZE), _free_rows(lists))


def append(side: Side, new: New) -> Side:
    """Return the side list with further items, for which there is room."""
    first = size(side)

    def with_new(held, values):
        held = held.copy()
        held[first : first + len(values)] = values
        return held

    return _made(jax.tree.map(with_new, side.items, new), side.rows)


def without(side: Side, slots: np.ndarray, *, lists: Living) -> Side | None:
    """Return the side list without the items of slots int [b], beside lists that may be others."""
    kept = np.setdiff1d(np.arange(size(side)), slots)
    if not kept.size:
        return None
    none = living.blank(lists, SIZE - kept.size)
    items = jax.tree.map(lambda held, rest: np.concatenate([held[kept], rest]), side.items, none)
    return _made(items, _free_rows(lists))


def _made(items, rows):
    read = items.vectors if items.features is None else items.features["encoded"]
    # On the device once and for all: a search would copy what is on the host.
    return Side(items, of_ids.table_of(items.ids), rows, jax.device_put(read))


def _free_rows(lists):
    """Return the first free rows; beyond the last one, those that more room would make."""
    rows = np.flatnonzero(of_ids.free(lists.ids))[:SIZE]
    more = lists.ids.size + np.arange(SIZE - rows.size)
    return np.concatenate([rows, more]).astype(np.int32)


def held(side: Side) -> New:
    """Return the items, in their order."""
    count = size(side)
    return jax.tree.map(lambda x: x[:count], side.items)


def slots_of(side: Side | None, ids: np.ndarray) -> np.ndarray:
    """Return the slots of the caller's ids [...], int32; -1 where they are not here."""
    if side is None:
        return np.full(ids.shape, -1, np.int32)
    return of_ids.rows_of(side.slots, ids)


def ids_at(side: Side | None, rows: np.ndarray, *, ids: np.ndarray) -> np.ndarray:
    """Return the caller's ids of found rows, [B, k]; blank ones of row -1.

    Args:
      side: beside the lists.
      rows: int32 [B, k].
      ids: [n], those of the lists by row.
    """
    empty: Any = of_ids.blank(ids)
    if side is None:
        missing = rows < 0
        found = ids[rows]  # -1 reads the last one
        return np.where(missing, empty, found) if missing.any() else found
    found = np.where(rows < 0, empty, ids[np.minimum(rows, ids.size - 1)])
    slots = np.minimum(np.searchsorted(side.rows, rows), SIZE - 1)
    here = (side.rows[slots] == rows) & (slots < size(side))
    return np.where(here, side.items.ids[slots], found)


def open_slots(
    side: Side, *, num_users: int, allowed: np.ndarray | None, exclude: np.ndarray | None
) -> np.ndarray:
    """Return which slots each user may get, bool [B, SIZE].

    Args:
      side: the side list.
      num_users: B.
      allowed: ids [m] or [B, m] that may be returned, or None.
      exclude: ids [B, E] that each user must not get, or None.
    """
    mask = np.broadcast_to(np.arange(SIZE) < size(side), (num_users, SIZE))
    if allowed is not None:
        mask = mask & _named(side, np.atleast_2d(allowed))
    if exclude is not None:
        mask = mask & ~_named(side, exclude)
    return mask


def _named(side, ids):
    """Return which slots ids [B, m] name, bool [B, SIZE]."""
    named = np.zeros((len(ids), SIZE + 1), bool)
    named[np.arange(len(ids))[:, None], slots_of(side, ids)] = True  # the last one: not here
    return named[:, :SIZE]


def join(
    found: SearchResult, side: Side, *, level: Level, beside: Beside, most: int
) -> SearchResult:
    """Score all items of the side list exactly, and return the best of these and of the lists'.

    What was left unseen, and so the estimate of recall, is that of the lists: all is seen here.

    Args:
      found: in the lists, in rows; [S, most] on the device, or of B of these users on the host.
      side: the side list.
      level: of the items; its features are not read.
      beside: what is asked of it.
      most: items that a search of the lists finds, to which what it found is padded.

    Returns:
      of as many users, on the host.
    """
    num_users, seen = found.ids.shape[0], beside.open.sum(axis=1, dtype=np.int32)
    more = (0, beside.open.shape[0] - num_users), (0, most - found.ids.shape[1])
    pair = found.ids, found.scores
    if np.any(more):
        empty = (-1, -np.inf)
        pair = (np.pad(x, more, constant_values=value) for x, value in zip(pair, empty))
    given = {"open_to": beside.open, "rows": side.rows, "k": width(beside.k)}
    level = level._replace(features=side.read)
    best = _join(level._replace(scorer=None), *pair, scorer=level.scorer, **given)
    found, (ids, scores, flops) = on_host((found, best))
    return found._replace(
        ids=ids[:num_users, : beside.k],
        scores=scores[:num_users, : beside.k],
        items_scored=found.items_scored + seen[:num_users],
        flops=found.flops + flops,
    )


@functools.partial(jax.jit, static_argnames=("scorer", "k"))
def _join(level, ids, scores, *, open_to, rows, scorer, k):
    pair = {"users": level.users, "items": level.features}
    per_user, per_row = pair_flops(scorer, level.params, **pair)

    def of_chunk(users, open_to, ids, scores):
        own = score_all(scorer, level.params, users=users, items=level.features)
        own = jnp.where(open_to, own.astype(jnp.float32), -jnp.inf)
        of_side = jnp.broadcast_to(rows[None, :], own.shape)
        joined = jnp.concatenate([scores, own], axis=1), jnp.concatenate([ids, of_side], axis=1)
        return top_k(*joined, k=k)

    values = values_of(SIZE, flops=per_row) + ids.shape[1]
    best = by_chunks(of_chunk, values, level.users, open_to, ids, scores)
    return *best, jnp.float32(per_user + per_row * SIZE)
