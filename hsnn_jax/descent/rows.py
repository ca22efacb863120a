"""Search among few items: score these alone, and ask no nodes."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from hsnn_jax.descent.beam import Array
from hsnn_jax.descent.descend import Level, SearchResult
from hsnn_jax.descent.search import check_levels, compiled_brute_force
from hsnn_jax.lists.index import Index, Tiles
from hsnn_jax.lists.levels import nodes_of_items


def search_rows(
    levels: Sequence[Level],
    indexes: Sequence[Index],
    *,
    rows: Array,
    k: int,
    ensemble: dict | None = None,
    exclude: Array | None = None,
) -> SearchResult:
    """Score these items alone: the exact answer to a filter that few items pass.

    Args:
      levels, indexes, ensemble: see `search_levels`; features of items may be `Tiles`.
      rows: int32 [m], distinct rows of listed items, ascending; 2^31 - 1 at the end as padding.
      k: items to return.
      exclude: see `search`.
    """
    levels, indexes = tuple(levels), tuple(indexes)
    check_levels(levels, indexes, ensemble=ensemble)
    request = tuple(level._replace(scorer=None) for level in levels)
    scorers = tuple(level.scorer for level in levels)
    return _score_rows(request, indexes, rows, ensemble, exclude, scorers=scorers, k=k)


@functools.partial(jax.jit, static_argnames=("scorers", "k"))
def _score_rows(levels, indexes, rows, ensemble, exclude, *, scorers, k):
    items, present = levels[-1].features, rows < indexes[-1].positions.shape[0]
    tiled = isinstance(items, Tiles)
    places = indexes[-1].positions.at[rows].get(mode="clip") if tiled else rows
    if tiled:
        items = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), items.features)
    items = jax.tree.map(lambda x: x.at[places].get(mode="clip"), items)
    if exclude is not None:
        place = jnp.minimum(jnp.searchsorted(rows, exclude), rows.size - 1)
        exclude = jnp.where(rows[place] == exclude, place, -1)
    found = compiled_brute_force(
        (*levels[:-1], levels[-1]._replace(features=items)),
        tuple(of.at[rows].get(mode="clip") for of in nodes_of_items(indexes)),
        ensemble=ensemble,
        exclude=exclude,
        allowed=present,
        scorers=scorers,
        k=k,
    )
    ids = jnp.where(found.ids < 0, -1, rows[found.ids])
    scored = jnp.broadcast_to(jnp.sum(present, dtype=jnp.int32), found.items_scored.shape)
    return found._replace(ids=ids, items_scored=scored)
