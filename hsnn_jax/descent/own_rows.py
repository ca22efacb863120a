"""Search among few items of each user's own: score these alone, and ask no nodes."""

import functools
import math

import jax
import jax.numpy as jnp

from hsnn_jax.chunks import by_chunks, num_rows
from hsnn_jax.descent.beam import Array
from hsnn_jax.descent.descend import Level, SearchResult, flat
from hsnn_jax.descent.pool import ROUND, by_row, filled, score_rows_of
from hsnn_jax.lists.index import Index, Tiles
from hsnn_jax.lists.wide import WideTiles, vectors_at
from hsnn_jax.monn.scorers import pair_flops
from hsnn_jax.top_k import top_k


def search_own_rows(level: Level, index: Index, *, rows: Array, k: int) -> SearchResult:
    """Score each user's own items alone: the exact answer to filters that few items pass.

    Args:
      level: of the items; features may be `Tiles`, `WideTiles` or rows.
      index: that lists them.
      rows: int32 [B, m], distinct rows of listed items, -1 for padding.
      k: items to return.
    """
    return _score(level._replace(scorer=None), index, rows, scorer=level.scorer, k=k)


@functools.partial(jax.jit, static_argnames=("scorer", "k"))
def _score(level, index, rows, *, scorer, k):
    items, users = level.features, level.users
    capacity = index.lists.shape[1]

    def of_wide(rows):
        place = index.positions[jnp.maximum(rows, 0)]
        return vectors_at(items, node=place // capacity, column=place % capacity)

    def of_chunk(users, rows):
        if isinstance(items, WideTiles):
            scores = scorer(level.params, users, of_wide(rows)).astype(jnp.float32)
        else:
            places = index.positions[jnp.maximum(rows, 0)] if isinstance(items, Tiles) else rows
            given = {"users": users, "items": by_row(items)}
            scores = score_rows_of(scorer, level.params, rows=places, **given)
        return top_k(jnp.where(rows >= 0, scores, -jnp.inf), rows, k=k)

    width = rows.shape[1] if isinstance(items, WideTiles) else ROUND
    of_row = sum(math.prod(x.shape[1:]) for x in jax.tree.leaves(flat(items)))
    ids, scores = by_chunks(of_chunk, width * of_row + filled(rows.shape[1]), users, rows)
    scored = jnp.sum(rows >= 0, axis=1, dtype=jnp.int32)
    pair = {"users": users, "items": flat(items)}
    per_user, per_row = pair_flops(scorer, level.params, **pair)
    none = jnp.zeros(num_rows(users), jnp.int32)
    flops = per_user + per_row * scored.astype(jnp.float32)
    return SearchResult(ids, scores, scored, flops, none, none, jnp.ones(num_rows(users)))
