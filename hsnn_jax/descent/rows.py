"""Search among few items: score these alone, and ask no nodes."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from hsnn_jax.chunks import by_chunks, num_rows
from hsnn_jax.descent.beam import Array
from hsnn_jax.descent.descend import Level, SearchResult
from hsnn_jax.descent.pool import ROUND, by_row, check_pool, filled, score_rows_of
from hsnn_jax.descent.search import check_levels, compiled_brute_force
from hsnn_jax.lists.index import Index, Tiles
from hsnn_jax.lists.levels import nodes_of_items
from hsnn_jax.lists.wide import WideTiles, vectors_at
from hsnn_jax.monn.ensemble import level_logit
from hsnn_jax.monn.scorers import pair_flops, score_all
from hsnn_jax.top_k import top_k


def search_rows(
    levels: Sequence[Level],
    indexes: Sequence[Index],
    *,
    rows: Array,
    k: int,
    ensemble: dict | None = None,
    exclude: Array | None = None,
    cheap: Level | None = None,
    pool: int = 0,
) -> SearchResult:
    """Score these items alone: the exact answer to a filter that few items pass.

    With a cheap scorer first, the answer is exact among the pool that this one chooses of them.

    Args:
      levels, indexes, ensemble: see `search_levels`; features of items may be `Tiles`.
      rows: int32 [m], distinct rows of listed items, ascending; 2^31 - 1 at the end as padding.
      k: items to return.
      exclude: see `search`.
      cheap, pool: see `search_levels`.
    """
    levels, indexes = tuple(levels), tuple(indexes)
    check_levels(levels, indexes, ensemble=ensemble)
    request = tuple(level._replace(scorer=None) for level in levels)
    scorers = tuple(level.scorer for level in levels)
    given = {"ensemble": ensemble, "exclude": exclude, "scorers": scorers, "k": k}
    pool = check_pool(cheap, pool, k=k, num_items=rows.size)
    if cheap is not None:
        given |= {"cheap": cheap._replace(scorer=None), "cheap_scorer": cheap.scorer, "pool": pool}
    return _score_rows(request, indexes, rows, **given)


@functools.partial(jax.jit, static_argnames=("scorers", "k", "cheap_scorer", "pool"))
def _score_rows(
    levels, indexes, rows, *, ensemble, exclude, scorers, k, cheap=None, cheap_scorer=None, pool=0
):
    present = rows < indexes[-1].positions.shape[0]
    if exclude is not None:
        place = jnp.minimum(jnp.searchsorted(rows, exclude), rows.size - 1)
        exclude = jnp.where(rows[place] == exclude, place, -1)
    masks = {"exclude": exclude, "allowed": present}
    levels = *levels[:-1], _of_rows(levels[-1], indexes[-1], rows)
    above = tuple(of.at[rows].get(mode="clip") for of in nodes_of_items(indexes))
    if cheap is None:
        options = {"ensemble": ensemble, "scorers": scorers, "k": k}
        found = compiled_brute_force(levels, above, **options, **masks)
    else:
        cheap = _of_rows(cheap, indexes[-1], rows)
        options = {"ensemble": None, "scorers": (cheap_scorer,), "k": pool}
        first = compiled_brute_force((cheap,), (), **options, **masks)
        found = _again(first, levels, above, ensemble=ensemble, scorers=scorers, k=k)
        unseen = _allowed(present, exclude) - jnp.sum(first.ids >= 0, axis=1, dtype=jnp.int32)
        found = found._replace(unseen=unseen, recall=jnp.where(unseen == 0, 1.0, jnp.nan))
    ids = jnp.where(found.ids < 0, -1, rows[found.ids])
    scored = jnp.broadcast_to(jnp.sum(present, dtype=jnp.int32), found.items_scored.shape)
    return found._replace(ids=ids, items_scored=scored)


def _of_rows(level, index, rows):
    """Return the level of the items `rows` alone."""
    if isinstance(level.features, WideTiles):
        capacity = index.lists.shape[1]
        places = index.positions.at[rows].get(mode="clip")
        vectors = vectors_at(level.features, node=places // capacity, column=places % capacity)
        return level._replace(features=vectors)
    items, tiled = level.features, isinstance(level.features, Tiles)
    places = index.positions.at[rows].get(mode="clip") if tiled else rows
    items = jax.tree.map(lambda x: x.at[places].get(mode="clip"), by_row(items))
    return level._replace(features=items)


def _again(first, levels, node_of, *, ensemble, scorers, k):
    """Score the pool [B, P] that `first` found by the levels, and join what both have cost."""
    if ensemble is None:
        levels, scorers = levels[-1:], scorers[-1:]
    items = levels[-1].features

    def of_chunk(users, ids):
        given = {"rows": ids, "users": users[-1], "items": items}
        scores = score_rows_of(scorers[-1], levels[-1].params, **given)
        if ensemble is not None:
            outputs = []
            for scorer, level, of, nodes in zip(scorers, levels, users, node_of):
                all_of = score_all(scorer, level.params, users=of, items=level.features)
                nodes = nodes.at[ids].get(mode="clip")
                outputs.append(jnp.take_along_axis(all_of, nodes, axis=1, mode="clip"))
            scores = level_logit(ensemble, jnp.stack([*outputs, scores], axis=-1))
        return top_k(jnp.where(ids >= 0, scores, -jnp.inf), ids, k=k)

    flops, pool = first.flops, first.ids.shape[1]
    width = filled(pool) * len(levels)
    width += ROUND * sum(x[0].size for x in jax.tree.leaves(items))
    for scorer, level in zip(scorers, levels):
        pair = {"users": level.users, "items": level.features}
        per_user, per_row = pair_flops(scorer, level.params, **pair)
        last = level is levels[-1]
        flops = flops + per_user + per_row * (filled(pool) if last else num_rows(level.features))
    users = tuple(level.users for level in levels)
    width += sum(num_rows(level.features) for level in levels[:-1])
    ids, scores = by_chunks(of_chunk, width, users, first.ids)
    nodes = first.nodes_scored + sum(num_rows(level.features) for level in levels[:-1])
    return first._replace(ids=ids, scores=scores, flops=flops, nodes_scored=nodes)


def _allowed(present, exclude):
    """Count the rows that each user may get, int32 [] or [B]."""
    if exclude is None:
        return jnp.sum(present, dtype=jnp.int32)
    users = jnp.arange(exclude.shape[0])[:, None]
    places = jnp.where(exclude < 0, present.size, exclude)
    left = jnp.broadcast_to(present, (exclude.shape[0], present.size))
    left = left.at[users, places].set(False, mode="drop")
    return jnp.sum(left, axis=1, dtype=jnp.int32)
