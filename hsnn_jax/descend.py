"""The engine of every search: from the nodes of the coarsest level down to the items.

Each level scores what the kept nodes of the level above list; the nodes that the level's budget
affords are kept and expanded in turn. Levels are numbered from the coarsest, and the last one
is the items: N levels stand on N - 1 nested indexes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hsnn_jax.chunks import by_chunks, num_rows
from hsnn_jax.ensemble import level_logit
from hsnn_jax.index import Tiles
from hsnn_jax.route import (
    Beam,
    Candidates,
    block_of,
    open_counts,
    owned,
    ranked,
    remaining,
    route,
    score_beam,
    slots_of,
)
from hsnn_jax.scorers import pair_flops, score_all
from hsnn_jax.top_k import top_k

_RANKED = 8192  # scores that a user's search ranks at once, at least a node's


class SearchResult(NamedTuple):
    """Retrieved items, best first, and what they cost."""

    ids: jax.Array  # int32 [B, k]; -1 where fewer than k items were found
    scores: jax.Array  # float32 [B, k]; -inf there
    items_scored: jax.Array  # int32 [B]; items whose score was computed, filtered ones included
    flops: jax.Array  # float32 [B]; scorer operations on nodes and all slots visited
    nodes_scored: jax.Array  # int32 [B]; nodes of all levels whose score was computed


class Level(NamedTuple):
    """The model of one level and what it reads.

    `features` are [K, ...] of the level's nodes, [n, ...] of the items at the last level, or
    `Tiles`, from `pack` of the index that lists them.
    """

    scorer: Any  # scorer(params, users [B, ...], features [B, m, ...]) -> [B, m]; hashable
    params: Any
    users: Any  # pytree of [B, ...]
    features: Any


class Request(NamedTuple):
    """What may change from call to call without a new compilation."""

    levels: tuple[Level, ...]  # without scorers, the last one without features
    budgets: tuple  # int32 [B] an index
    exclude: jax.Array | None  # int [B, E]
    allowed: jax.Array | None  # bool [n]
    cost_weight: jax.Array | float
    ensemble: dict | None


class Static(NamedTuple):
    """What a compiled search is specialised to."""

    scorers: tuple
    k: int
    max_beams: tuple[int, ...]
    block: int  # nodes whose items are ranked at once


def prepare(
    levels,
    indexes,
    k,
    *,
    budgets,
    max_beams,
    exclude=None,
    allowed=None,
    cost_weight=0.0,
    ensemble=None,
) -> tuple[Request, Static]:
    """Validate a request and sort it into traced and static values.

    Args:
      levels: N `Level`s.
      indexes: N - 1 nested `Index`es, so that each lists the next one's nodes.
      k, exclude, allowed, cost_weight: see `search`.
      budgets: one an index, most of what it lists to score.
      max_beams: one an index, static maximum of nodes visited; None for all.
      ensemble: see `level_search.search_levels`.

    Returns:
      (Request, Static); the features of the last level are in neither.
    """
    num_users = num_rows(levels[0].users)
    check_request(indexes[-1].positions.shape[0], num_users, k, exclude, allowed)
    beams, candidates = [], indexes[0].nodes.shape[0]
    for index, budget, max_beam in zip(indexes, budgets, max_beams):
        num_nodes, capacity = index.nodes.shape[0], index.lists.shape[1]
        if max_beam is not None and max_beam < 1:
            raise ValueError(f"max_beam must be >= 1, got {max_beam=}")
        if not isinstance(budget, jax.core.Tracer) and np.min(budget) < capacity:
            raise ValueError(
                f"budget must be at least one node's capacity, {capacity} items, "
                f"got {np.min(budget)}"
            )
        candidates = min(candidates, num_nodes)
        beams.append(candidates if max_beam is None else min(max_beam, candidates))
        candidates = beams[-1] * capacity
    last = levels[-1]._replace(features=None)
    request = Request(
        levels=tuple(level._replace(scorer=None) for level in (*levels[:-1], last)),
        budgets=tuple(
            jnp.broadcast_to(jnp.asarray(budget, jnp.int32), (num_users,)) for budget in budgets
        ),
        exclude=exclude,
        allowed=allowed,
        cost_weight=cost_weight,
        ensemble=ensemble,
    )
    block = max(1, _RANKED // indexes[-1].lists.shape[1])
    return request, Static(tuple(level.scorer for level in levels), k, tuple(beams), block)


def local_search(indexes, items, request: Request, static: Static, first_node=0):
    """Search the items' lists that are held here, those of nodes from `first_node` on.

    Args:
      indexes: the coarsest first; the last one's lists are [K here, C], all the rest is whole.
      items: [n, ...], or `Tiles` of these lists.
      request, static: from `prepare`.
      first_node: int32 [].

    Returns:
      (ids [B, k], scores [B, k]) from here; (what was scored below each index int32 [B, N - 1],
      nodes visited int32 [B, N - 1]) everywhere.
    """
    features = [*(level.features for level in request.levels[:-1]), items]
    params = [level.params for level in request.levels]
    opened = open_counts(indexes, request.allowed)

    def of_chunk(users, budgets, exclude):
        left, beams = remaining(indexes, opened, request.allowed, exclude), []

        def expand(level, beam, **masks):
            lists = indexes[level - 1].lists
            models = static.scorers[level], params[level]
            scores = score_beam(*models, lists, features[level], users[level], beam, **masks)
            ids = lists[beam.nodes].reshape(scores.shape)
            return _candidates(ids, scores, beam.outputs, request.ensemble)

        scores = score_all(static.scorers[0], params[0], users[0], features[0])
        found = _candidates(None, scores, None, request.ensemble)
        for level, (index, budget) in enumerate(zip(indexes, budgets), start=1):
            beam = route(
                found,
                index,
                left[level - 1],
                budget=budget,
                cost_weight=request.cost_weight,
                max_beam=static.max_beams[level - 1],
            )
            beams.append(beam)
            if level < len(indexes):
                found = expand(level, beam)
        excluded = None if exclude is None else slots_of(index, exclude)
        beam, excluded = owned(beam, excluded, first_node, index)
        if excluded is not None:
            excluded = ranked(excluded, beam, index.lists.shape[0])
        ids, scores = _best(
            lambda block, excluded: expand(
                len(indexes), block, allowed=request.allowed, excluded=excluded
            ),
            beam,
            excluded,
            static.k,
            size=static.block,
        )
        scored, visited = (
            jnp.stack([getattr(beam, field) for beam in beams], axis=1)
            for field in ("items", "length")
        )
        return ids, scores, scored, visited

    users = tuple(level.users for level in request.levels)
    width = _width(indexes, features, request, static)
    return by_chunks(of_chunk, width, users, request.budgets, request.exclude)


def _best(expand, beam: Beam, excluded, k: int, *, size: int):
    """Return the k best of what the visited nodes list, ranked a block of nodes at a time.

    So many scores are held and ranked as the budget asks for, not as many as `max_beam` allows.

    Args:
      expand: expand(block of the beam, excluded there) -> `Candidates`.
      beam, excluded: see `block_of`.
      k, size: static.
    """
    num_users, max_beam = beam.nodes.shape
    if max_beam <= size:
        found = expand(beam, excluded)
        return top_k(found.scores, found.ids, k)

    def join(carry):
        first, ids, scores = carry
        found = expand(*block_of(beam, excluded, first, size))
        ids = jnp.concatenate([ids, found.ids], axis=1)
        scores = jnp.concatenate([scores, found.scores], axis=1)
        return first + size, *top_k(scores, ids, k)

    nothing = jnp.full((num_users, k), -1, jnp.int32), jnp.full((num_users, k), -jnp.inf)
    last = jnp.max(beam.length)
    return jax.lax.while_loop(lambda carry: carry[0] < last, join, (0, *nothing))[1:]


def result(found, indexes, items, request: Request, static: Static) -> SearchResult:
    """Add the cost to what `local_search` found."""
    ids, scores, scored, visited = found
    features = [*(level.features for level in request.levels[:-1]), items]
    flops, slots = 0.0, float(indexes[0].nodes.shape[0])
    for number, (level, scorer) in enumerate(zip(request.levels, static.scorers)):
        if number:
            capacity = indexes[number - 1].lists.shape[1]
            slots = capacity * visited[:, number - 1].astype(jnp.float32)
        per_user, per_row = pair_flops(scorer, level.params, level.users, flat(features[number]))
        flops = flops + per_user + per_row * slots
    nodes = indexes[0].nodes.shape[0] + jnp.sum(scored[:, :-1], axis=1, dtype=jnp.int32)
    return SearchResult(ids, scores, scored[:, -1], flops, nodes)


def flat(features):
    """Return the features as [rows, ...] shapes, whichever way they are laid out."""
    if not isinstance(features, Tiles):
        return features
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((x.shape[0] * x.shape[1], *x.shape[2:]), x.dtype),
        features.features,
    )


def check_request(num_items, num_users, k, exclude, allowed) -> None:
    """Raise a ValueError unless k and the masks fit the items and users."""
    if not 1 <= k <= num_items:
        raise ValueError(f"k must be in [1, {num_items}] (number of items), got {k=}")
    if exclude is not None and (exclude.ndim != 2 or exclude.shape[0] != num_users):
        raise ValueError(
            f"exclude must have shape [{num_users}, E], one row a user, got shape {exclude.shape}"
        )
    if allowed is not None and allowed.shape != (num_items,):
        raise ValueError(
            f"allowed must have shape [{num_items}], one entry an item, got shape {allowed.shape}"
        )


def _candidates(ids, own, above, ensemble) -> Candidates:
    """Join a level's own outputs [B, M] to those of the nodes [B, S, n] that list the entries."""
    if ensemble is None:
        return Candidates(ids, own, own[..., None])
    outputs = own[..., None]
    if above is not None:
        num_users, width = own.shape
        shape = (num_users, above.shape[1], width // above.shape[1], above.shape[2])
        above = jnp.broadcast_to(above[:, :, None, :], shape).reshape(num_users, width, -1)
        outputs = jnp.concatenate([above, outputs], axis=-1)
    # Masked here and not before: a weight of zero or less would bring -inf back.
    scores = jnp.where(own == -jnp.inf, -jnp.inf, level_logit(ensemble, outputs))
    return Candidates(ids, scores, outputs)


def _width(indexes, features, request, static):
    """Estimate the values that one user's search holds at once."""
    widths = [indexes[0].nodes.shape[0]]
    for level, (index, beam) in enumerate(zip(indexes, static.max_beams), start=1):
        capacity = index.lists.shape[1]
        outputs = 1 if request.ensemble is None else level + 1
        # Of the items, a block at a time is held.
        held = min(beam, static.block) if level == len(indexes) else beam
        widths += [held * capacity * outputs, capacity * _row_size(features[level])]
        if request.exclude is not None:
            widths.append(index.nodes.shape[0])
    return max(widths)


def _row_size(features):
    return sum(int(np.prod(x.shape[1:])) for x in jax.tree.leaves(flat(features)))
