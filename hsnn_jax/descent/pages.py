"""Read the lists of the visited nodes by the page: a search pays for few free slots.

A list has room for the fullest node, and most are far from full. It is read in pages of a few
slots, as far as its extent, the last occupied slot.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from hsnn_jax.descent.beam import Array, Beam, Slots
from hsnn_jax.lists.index import Index, Tiles
from hsnn_jax.lists.wide import WideTiles

_Number = TypeVar("_Number", int, jax.Array)

_SLOTS = 8  # of a page; about half a page at the end of a list is free
_FEW = 64  # nodes of a beam that are all compared with a page's number
_ROUND = 64  # slots of a user that are scored at once


class Pages(NamedTuple):
    """Some of the pages that the nodes of a beam list, in the order of the beam.

    Those from `length` on are no pages.
    """

    node: jax.Array  # int32 [B, P]
    number: jax.Array  # int32 [B, P]: which page of the node's list
    rank: jax.Array  # int32 [B, P]: which node of the beam
    length: jax.Array  # int32 [B]
    first: jax.Array | int  # int32 []: how many of the beam's pages come before these


def page_slots(index: Index, items: Any) -> int:
    """Return the slots of a page of the items' features; those of width-major tiles are wider."""
    if isinstance(items, WideTiles):
        return items.features.shape[3]
    return min(_SLOTS, index.lists.shape[1])


def pages_in(slots: _Number, *, size: int) -> _Number:
    """Return how many pages of a size hold the first slots of a list."""
    return -(-slots // size)


def num_pages(beam: Beam, *, size: int) -> jax.Array:
    """Return how many pages the nodes of each user's beam list, int32 [B]."""
    return jnp.sum(pages_in(beam.extents, size=size), axis=1, dtype=jnp.int32)


def whole_rounds(pages: int, *, size: int) -> int:
    """Round a number of pages up to what whole rounds score."""
    step = _pages_a_round(size)
    return -(-pages // step) * step


def pages_of(beam: Beam, *, size: int, first: jax.Array | int, count: int) -> Pages:
    """Lay out pages `first` to `first + count - 1` of all that the beam's nodes list.

    Args:
      beam: see `route.Beam`.
      size: static slots of a page.
      first: int32 [].
      count: static P.
    """
    starts, ends = _spans(beam, size)
    wanted = first + jnp.arange(count, dtype=jnp.int32)
    if ends.shape[1] <= _FEW:  # no steps one after the other, which a single user would wait for
        rank = jnp.sum((ends[:, :, None] <= wanted[None, None, :]).astype(jnp.int32), axis=1)
    else:
        rank = jax.vmap(lambda ends: jnp.searchsorted(ends, wanted, side="right"))(ends)
    rank = jnp.minimum(rank, ends.shape[1] - 1).astype(jnp.int32)
    node, start = (jnp.take_along_axis(x, rank, axis=1) for x in (beam.nodes, starts))
    return Pages(
        node, wanted[None, :] - start, rank, jnp.clip(ends[:, -1] - first, 0, count), first
    )


def places_of(slots: Slots, beam: Beam, *, index: Index, items: Any) -> jax.Array:
    """Return the places of slots [B, E] among all slots of the beam's pages, int32 [B, E].

    Slots of nodes that are not visited are beyond all pages.
    """
    num_users, max_beam = beam.nodes.shape
    rows = jnp.arange(num_users)[:, None]
    ranks = jnp.full((num_users, index.lists.shape[0] + 1), max_beam)
    ranks = ranks.at[rows, beam.nodes].set(jnp.arange(max_beam)[None, :])
    size = page_slots(index, items)
    beyond = max_beam * pages_in(index.lists.shape[1], size=size)
    starts = jnp.pad(_spans(beam, size)[0], ((0, 0), (0, 1)), constant_values=beyond)
    number = slots.column // size
    page = jnp.take_along_axis(starts, ranks[rows, slots.node], axis=1) + number
    first = number * size if isinstance(items, WideTiles) else _first_column(index, number, size)
    return page * size + slots.column - first


def score_pages(
    scorer: Callable,
    params: Any,
    *,
    index: Index,
    items: Any,
    users: Any,
    pages: Pages,
    allowed: Array | None = None,
    excluded: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """Score what the pages list, a few pages of every user at a time.

    Runs as many rounds as the longest beam needs, so that the time follows the traced budget.

    Args:
      scorer, params: see `search`.
      index: only the lists are read.
      items: features of what is listed, a pytree of [n, ...], or `Tiles`.
      users: pytree of [B, ...].
      pages: as many a user as `whole_rounds`.
      allowed: bool [n] or None.
      excluded: from `places_of`, or None.

    Returns:
      (ids int32 [B, M], scores float32 [B, M]) of the M slots, -inf where there is no item to
      return.
    """
    num_users, count = pages.node.shape
    slots = page_slots(index, items)
    step = _pages_a_round(slots)

    def visit(i, found):
        node, number = (
            jax.lax.dynamic_slice_in_dim(x, i * step, step, axis=1)
            for x in (pages.node, pages.number)
        )
        column = _first_column(index, number, slots)

        def read(tiles):
            return _read(tiles, node, column, slots)

        ids = read(index.lists)
        # So the last page may begin within the one before, whose slots are not its own.
        own = column[..., None] + jnp.arange(slots)[None, None, :] >= number[..., None] * slots
        own &= (i * step + jnp.arange(step)[None, :] < pages.length[:, None])[..., None]
        wanted = (ids >= 0) & own.reshape(ids.shape)
        if allowed is not None:
            wanted &= allowed[jnp.maximum(ids, 0)]
        if isinstance(items, Tiles):
            features = jax.tree.map(read, items.features)
        else:
            features = jax.tree.map(lambda feature: feature[jnp.maximum(ids, 0)], items)
        scores = jnp.where(wanted, scorer(params, users, features), -jnp.inf)
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(all_of, new, i * step * slots, axis=1)
            for all_of, new in zip(found, (ids, scores.astype(jnp.float32)))
        )

    shape = num_users, count * slots
    found = jnp.full(shape, -1, jnp.int32), jnp.full(shape, -jnp.inf)
    rounds = -(-jnp.max(pages.length) // step)
    ids, scores = jax.lax.fori_loop(0, rounds, visit, found)
    return ids, without(scores, excluded, pages=pages, size=slots)


def without(scores: jax.Array, excluded: Any, *, pages: Pages, size: int) -> jax.Array:
    """Return scores [B, M] of these pages with -inf at the places from `places_of`, or None."""
    if excluded is None:
        return scores
    rows, place = jnp.arange(scores.shape[0])[:, None], excluded - pages.first * size
    place = jnp.where(place < 0, scores.shape[1], place)  # it would count from the end
    return scores.at[rows, place].set(-jnp.inf, mode="drop")


def _spans(beam: Beam, size: int):
    """Return where the pages of each node of the beam begin and end, int32 [B, S] each."""
    pages = pages_in(beam.extents, size=size)
    ends = jnp.cumsum(pages, axis=1)
    return ends - pages, ends


def _pages_a_round(size: int) -> int:
    return max(1, _ROUND // size)


def _first_column(index: Index, number, slots: int):
    """Return the slot of its list at which a page begins; the last one ends with the list."""
    return jnp.minimum(number * slots, index.lists.shape[1] - slots)


def _read(tiles, node, column, slots: int):
    """Read pages [B, M] of what is laid out by slot, [K, C, ...]: [B, M * slots, ...]."""

    def page(node, column):
        start = (node, column, *(0 for _ in tiles.shape[2:]))
        return jax.lax.dynamic_slice(tiles, start, (1, slots, *tiles.shape[2:]))[0]

    found = jax.vmap(jax.vmap(page))(node, column)
    return found.reshape(found.shape[0], -1, *found.shape[3:])
