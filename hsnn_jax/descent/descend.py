"""The engine of every search: from the nodes of the coarsest level down to the items.

Each level scores what the kept nodes of the level above list; the nodes that the level's budget
affords are kept and expanded in turn. Levels are numbered from the coarsest, and the last one
is the items: N levels stand on N - 1 nested indexes.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from hsnn_jax.chunks import by_chunks, num_rows
from hsnn_jax.descent.beam import (
    Array,
    open_counts,
    owned,
    remaining,
    route,
    slots_of,
    unseen_items,
)
from hsnn_jax.descent.below import best, candidates, most_pages, scored
from hsnn_jax.descent.pages import num_pages, page_slots, pages_in, places_of, whole_rounds
from hsnn_jax.descent.pool import ROUND, check_pool, filled, left_out, score_pool
from hsnn_jax.descent.recall import Wanted, affordable, estimate, user_spread
from hsnn_jax.lists.checks import as_rows, check_cast
from hsnn_jax.lists.index import Index, Tiles
from hsnn_jax.lists.wide import WideTiles
from hsnn_jax.monn.scorers import pair_flops, score_all
from hsnn_jax.top_k import top_k

_RANKED = 6144  # slots of the items that a user's search ranks at once


class SearchResult(NamedTuple):
    """Retrieved items, best first, and what they cost."""

    ids: jax.Array  # int32 [B, k]; -1 where fewer than k items were found
    scores: jax.Array  # float32 [B, k]; -inf there
    items_scored: jax.Array  # int32 [B]; items whose score was computed, filtered ones included
    flops: jax.Array  # float32 [B]; scorer operations on nodes and all slots of the pages read,
    # and with a cheap scorer first on all of its pool
    nodes_scored: jax.Array  # int32 [B]; nodes of all levels whose score was computed
    unseen: jax.Array  # int32 [B]; items that the user may get and that were not scored
    recall: jax.Array  # float32 [B]; estimated, see `recall.estimate`; NaN where nothing tells it


def nothing_found(k: int) -> SearchResult:
    """Return the answer to no users."""
    none, nothing = jnp.zeros(0, jnp.int32), jnp.zeros(0, jnp.float32)
    ids, scores = jnp.zeros((0, k), jnp.int32), jnp.zeros((0, k), jnp.float32)
    return SearchResult(ids, scores, none, nothing, none, none, nothing)


class Level(NamedTuple):
    """The model of one level and what it reads.

    `features` are [K, ...] of the level's nodes, [n, ...] of the items at the last level, or
    `Tiles`, from `pack` of the index that lists them, or of the items `WideTiles`.
    """

    scorer: Any  # scorer(params, users [B, ...], features [B, m, ...]) -> [B, m]; hashable
    params: Any
    users: Any  # pytree of [B, ...]
    features: Any


class Request(NamedTuple):
    """What may change from call to call without a new compilation."""

    levels: tuple[Level, ...]  # without scorers, the last one without features
    budgets: tuple  # int32 [B] an index
    exclude: Array | None  # int [B, E]
    allowed: Array | None  # bool [n]
    ensemble: dict | None
    cheap: Level | None = None  # that chooses what the last level scores; without features
    wanted: Wanted | None = None  # for the estimate of recall; of one level of nodes, no pool


class Static(NamedTuple):
    """What a compiled search is specialised to."""

    scorers: tuple  # of the levels, and then the cheap one if there is one
    k: int
    max_beams: tuple[int, ...]
    ranked: int  # slots that are ranked at once
    pool: int = 0  # items that the cheap scorer chooses; 0 without it


def prepare(
    levels: Sequence,
    indexes: Sequence[Index],
    *,
    k: int,
    budgets: Sequence,
    max_beams: Sequence,
    exclude: Array | None = None,
    allowed: Array | None = None,
    ensemble: dict | None = None,
    cheap: Level | None = None,
    pool: int = 0,
    wanted: Wanted | None = None,
) -> tuple[Request, Static]:
    """Validate a request and sort it into traced and static values.

    Args:
      levels: N `Level`s.
      indexes: N - 1 nested `Index`es, so that each lists the next one's nodes.
      k, exclude, allowed: see `search`.
      budgets: one an index, most of what it lists to score.
      max_beams: one an index, static maximum of nodes visited; None for all.
      ensemble, cheap, pool, wanted: see `search.search_levels`.

    Returns:
      (Request, Static); the features of the last level and of the cheap one are in neither.
    """
    num_users = num_rows(levels[0].users)
    check_request(indexes[-1].positions.shape[0], num_users, k=k, exclude=exclude, allowed=allowed)
    check_cast("users", levels[0].users)
    pool = check_pool(cheap, pool, k=k, num_items=indexes[-1].positions.shape[0])
    beams, candidates = [], indexes[0].nodes.shape[0]
    for index, budget, max_beam in zip(indexes, budgets, max_beams):
        num_nodes, capacity = index.nodes.shape[0], index.lists.shape[1]
        if max_beam is not None and max_beam < 1:
            raise ValueError(f"max_beam: expected a number >= 1, found {max_beam}")
        if not isinstance(budget, Tracer) and np.min(budget) < 1:
            raise ValueError(f"budget: expected numbers >= 1, found {np.min(budget)}")
        candidates = min(candidates, num_nodes)
        beams.append(candidates if max_beam is None else min(max_beam, candidates))
        candidates = beams[-1] * capacity
    last = levels[-1]._replace(features=None)
    request = Request(
        levels=tuple(level._replace(scorer=None) for level in (*levels[:-1], last)),
        budgets=tuple(_of_users(budget, num_users) for budget in budgets),
        exclude=exclude,
        allowed=allowed,
        ensemble=ensemble,
        cheap=None if cheap is None else cheap._replace(scorer=None, features=None),
        wanted=wanted,
    )
    scorers = tuple(level.scorer for level in levels)
    scorers += () if cheap is None else (cheap.scorer,)
    return request, Static(scorers, k, tuple(beams), _RANKED, pool)


def _of_users(budget, num_users):
    """Return int32 [B]; on the host where the budget is: a call on the device takes 30 us."""
    if isinstance(budget, jax.Array):
        return jnp.broadcast_to(budget.astype(jnp.int32), (num_users,))
    return np.broadcast_to(np.asarray(budget, np.int32), (num_users,))


def local_search(
    indexes: Sequence[Index],
    items: Any,
    *,
    request: Request,
    static: Static,
    first_node: jax.Array | int = 0,
    cheap_items: Any = None,
    join: Callable | None = None,
) -> tuple:
    """Search the items' lists that are held here, those of nodes from `first_node` on.

    Args:
      indexes: the coarsest first; the last one's lists are [K here, C], all the rest is whole.
      items: [n, ...], or `Tiles` of these lists.
      request, static: from `prepare`.
      first_node: int32 [].
      cheap_items: what the cheap scorer reads, as `items`.
      join: join(ids, scores, k) is the best of all devices, where there are several.

    Returns:
      (ids [B, k], scores [B, k]) from here; (what was scored below each index int32 [B, N - 1],
      pages read int32 [B, N - 1], unseen int32 [B], recall float32 [B]) everywhere.
    """
    features = [*(level.features for level in request.levels[:-1]), items]
    params = [level.params for level in request.levels]
    opened = open_counts(indexes, request.allowed)

    def of_chunk(users, cheap_users, budgets, exclude):
        left, read = remaining(indexes, opened, allowed=request.allowed, exclude=exclude), []

        def of_level(level):
            return {"users": users[level], "items": features[level], "ensemble": request.ensemble}

        scores = score_all(static.scorers[0], params[0], users=users[0], items=features[0])
        found = candidates(None, scores, ensemble=request.ensemble)
        for level, (index, budget) in enumerate(zip(indexes[:-1], budgets), start=1):
            most = static.max_beams[level - 1]
            beam = route(found, index, left=left[level - 1], budget=budget, max_beam=most)
            size = page_slots(index, features[level])
            given = {"first": 0, "count": most_pages(beam, index, size=size), "beam": beam}
            scorer = static.scorers[level], params[level]
            found = scored(*scorer, index=index, **given, **of_level(level))
            read.append((beam.items, num_pages(beam, size=size)))
        unit = user_spread(static.scorers[len(indexes)], users[-1], scores=found.scores)
        below = functools.partial(
            of_items, (found.scores, unit), left[-1], exclude, users, cheap_users
        )
        budget = _chosen(request.wanted, budgets[-1], found, left[-1], indexes[-1], unit)
        given = {"left": left[-1], "budget": budget, "max_beam": static.max_beams[-1]}
        if isinstance(cheap_items if static.pool else items, WideTiles):
            # Short beams have a program of their own: twice the code, which pays here.
            ids, scores, unseen, recall, *last = route(found, indexes[-1], then=below, **given)
        else:
            ids, scores, unseen, recall, *last = below(route(found, indexes[-1], **given))
        read.append(last)
        counts = (jnp.stack(each, axis=1) for each in zip(*read))
        return ids, scores, *counts, unseen, recall

    def of_items(nodes, left, exclude, users, cheap_users, whole):
        index, unseen = indexes[-1], unseen_items(whole, left)
        excluded = None if exclude is None else slots_of(index, exclude)
        beam, excluded = owned(whole, excluded, first_node=first_node, index=index)
        read: dict[str, Any] = {"items": items, "users": users[-1], "ensemble": request.ensemble}
        scorer = static.scorers[len(indexes)], params[-1]
        if static.pool:
            read = {"items": cheap_items, "users": cheap_users, "ensemble": None}
            scorer = static.scorers[-1], cast(Level, request.cheap).params
        read |= {"index": index, "beam": beam, "allowed": request.allowed}
        if excluded is not None:
            read["excluded"] = places_of(excluded, beam, index=index, items=read["items"])

        def expand(first, count):
            return scored(*scorer, first=first, count=count, **read)

        size = page_slots(index, read["items"])
        given = {"most": most_pages(beam, index, size=size), "block": _block(size, static)}
        given |= {"num_users": num_rows(users)}
        last = jnp.max(num_pages(beam, size=size))
        ids, scores = best(expand, last, k=static.pool or static.k, **given)
        if static.pool:
            ids = ids if join is None else join(ids, scores, static.pool)[0]
            unseen = left_out(left, ids)
            own, above = score_pool(
                static.scorers[len(indexes)],
                params[-1],
                ids=ids,
                users=users[-1],
                items=items,
                index=index,
                beam=whole,
                first_node=first_node,
            )
            scores = candidates(ids, own, above=above, ensemble=request.ensemble).scores
            ids, scores = top_k(scores, ids, k=static.k)
        recall = jnp.where(unseen == 0, 1.0, jnp.nan)
        if request.wanted is not None:
            best_found = scores if join is None else join(ids, scores, static.k)[1]
            known = {"scores": nodes[0], "unit": nodes[1], "left": left, "beam": whole}
            recall = estimate(request.wanted, best_found, unseen=unseen, **known)
        return ids, scores, unseen, recall, whole.items, num_pages(whole, size=size)

    users = tuple(level.users for level in request.levels)
    width = _width(indexes, features, request, static)
    cheap_users = None if request.cheap is None else request.cheap.users
    return by_chunks(of_chunk, width, users, cheap_users, request.budgets, request.exclude)


def _chosen(
    wanted: Wanted | None, budget: Array, found: Any, left: Array, index: Index, unit: Any
) -> Array:
    """Return the budgets int32 [B] that a wanted recall affords, at most those that were given."""
    if wanted is None or wanted.tolerance is None:
        return budget
    given = {"k": wanted.k, "scores": found.scores, "left": left, "counts": index.counts}
    given |= {"unit": unit}
    return jnp.minimum(budget, affordable(wanted.tail, wanted.tolerance, **given))


def _block(size: int, static: Static) -> int:
    """Return how many pages of a size are ranked at once."""
    return whole_rounds(max(1, static.ranked // size), size=size)


def result(
    found: tuple,
    indexes: Sequence[Index],
    *,
    items: Any,
    request: Request,
    static: Static,
    cheap_items: Any = None,
) -> SearchResult:
    """Add the cost to what `local_search` found."""
    ids, scores, scored, read, unseen, recall = found
    features = [*(level.features for level in request.levels[:-1]), items, cheap_items]
    slots: list[Any] = [float(indexes[0].nodes.shape[0])]
    listed = [*features[1 : len(indexes)], cheap_items if static.pool else items]
    sizes = [page_slots(*pair) for pair in zip(indexes, listed)]
    slots += [size * read[:, i].astype(jnp.float32) for i, size in enumerate(sizes)]
    if static.pool:
        slots = [*slots[:-1], float(filled(static.pool)), slots[-1]]
    levels = [*request.levels, *(() if request.cheap is None else (request.cheap,))]
    flops: Any = 0.0
    for level, scorer, read_of, count in zip(levels, static.scorers, features, slots):
        pair = {"users": level.users, "items": flat(read_of)}
        per_user, per_row = pair_flops(scorer, level.params, **pair)
        flops = flops + per_user + per_row * count
    nodes = indexes[0].nodes.shape[0] + jnp.sum(scored[:, :-1], axis=1, dtype=jnp.int32)
    return SearchResult(ids, scores, scored[:, -1], flops, nodes, unseen, recall)


def flat(features: Any) -> Any:
    """Return the features as [rows, ...] shapes, whichever way they are laid out."""
    if isinstance(features, WideTiles):
        nodes, pages, width, lanes = features.features.shape
        return jax.ShapeDtypeStruct((nodes * pages * lanes, width), features.features.dtype)
    if not isinstance(features, Tiles):
        return features
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((x.shape[0] * x.shape[1], *x.shape[2:]), x.dtype),
        features.features,
    )


def check_request(
    num_items: int, num_users: int, *, k: int, exclude: Array | None, allowed: Array | None
) -> None:
    """Raise a ValueError unless k and the masks fit the items and users."""
    if not 1 <= k <= num_items:
        raise ValueError(f"k: expected 1 to {num_items}, the rows of items, found {k}")
    if exclude is not None:
        as_rows("exclude", exclude)
    if exclude is not None and (exclude.ndim != 2 or exclude.shape[0] != num_users):
        raise ValueError(
            f"exclude: expected shape [{num_users}, E], one row per user, found "
            f"{list(exclude.shape)}"
        )
    if allowed is not None and allowed.shape != (num_items,):
        raise ValueError(
            f"allowed: expected shape [{num_items}], one entry per item, found "
            f"{list(allowed.shape)}"
        )


def _width(indexes, features, request, static):
    """Estimate the values that one user's search holds at once."""
    widths = [indexes[0].nodes.shape[0]]
    for level, (index, beam) in enumerate(zip(indexes, static.max_beams), start=1):
        outputs = 1 if request.ensemble is None else level + 1
        size = page_slots(index, features[level])
        pages = beam * pages_in(index.lists.shape[1], size=size)
        # Of the items, a block at a time is held.
        pages = min(pages, _block(size, static)) if level == len(indexes) else pages
        if isinstance(features[level], WideTiles):
            # A page is read once for all users of a chunk: more of them pay.
            widths.append(pages * size * outputs // 2)
        else:
            a_round = whole_rounds(1, size=size) * _row_size(features[level])
            widths += [pages * size * outputs, size * a_round]
        if request.exclude is not None:
            widths.append(index.nodes.shape[0])
    if static.pool:
        widths.append(filled(static.pool) * len(features) + ROUND * _row_size(features[-1]))
    return max(widths)


def _row_size(features):
    return sum(int(np.prod(x.shape[1:])) for x in jax.tree.leaves(flat(features)))
