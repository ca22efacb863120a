"""Search through one level of nodes or several, and brute force over all items.

Source of several levels with a model a level: arXiv 2408.06653v3, serving of the hierarchical
structured neural network.
"""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from hsnn_jax.chunks import by_chunks, num_rows
from hsnn_jax.descent import descend
from hsnn_jax.descent.descend import (
    Level,
    Request,
    SearchResult,
    Static,
    check_request,
    local_search,
)
from hsnn_jax.lists.index import Index, Tiles, live
from hsnn_jax.lists.levels import nodes_of_items
from hsnn_jax.monn.ensemble import level_logit
from hsnn_jax.monn.scorers import pair_flops, score_all
from hsnn_jax.top_k import top_k

# Operations for which a scorer is taken to hold one value of a pair while it works: those of an
# inner product of width 64. A MoNN L by all users at once would hold gigabytes.
_FLOPS_A_VALUE = 128


def search(
    scorer,
    params,
    index: Index,
    items,
    users,
    k: int,
    *,
    budget,
    max_beam: int | None = None,
    exclude=None,
    allowed=None,
    cost_weight=0.0,
    node_scorer=None,
    node_params=None,
    node_features=None,
) -> SearchResult:
    """Score the nodes, then the items of the best nodes that the budget affords.

    Nodes are taken in the order of score - cost_weight * log(items of the node), while the
    cumulative number of items fits the budget; a node that holds no item that the user may get
    is not taken. A budget of n with a full `max_beam` gives `brute_force`'s answer. Changing
    the *value* of budget, cost_weight, exclude or allowed compiles nothing anew.

    Args:
      scorer: scorer(params, users [B, ...], items [B, m, ...]) -> [B, m]; hashable and stable,
        e.g. a module-level function or a Flax module's `apply`.
      params: its parameters.
      index: see `Index`.
      items: item features, an array or pytree of [n, ...]; or `Tiles` from `pack`.
      users: array or pytree of [B, ...].
      k: items to return.
      budget: most items to score for a user, a number or int [B]. The best node is visited
        whatever it lists.
      max_beam: static maximum of nodes visited; all by default. So many nodes are put in order
        whatever the budget; what they list is scored and ranked as far as the budget reaches.
      exclude: optional int [B, E], ids that a user must not get, -1 for padding.
      allowed: optional bool [n], a filter shared by all users.
      cost_weight: 0 ranks nodes by score alone; 1 divides exp(score) by the node's size.
      node_scorer, node_params, node_features: scorer of the node level; by default the item
        scorer on `index.nodes`.

    Returns:
      `SearchResult`.

    Raises:
      ValueError: k, budget, max_beam, exclude or allowed is out of range or of a wrong shape.
    """
    request, static = prepare(
        scorer,
        params,
        index,
        users,
        k,
        budget=budget,
        max_beam=max_beam,
        exclude=exclude,
        allowed=allowed,
        cost_weight=cost_weight,
        node_scorer=node_scorer,
        node_params=node_params,
        node_features=node_features,
    )
    return compiled_search((index,), items, request, static=static)


def brute_force(
    scorer, params, items, users, k: int, *, exclude=None, allowed=None
) -> SearchResult:
    """Score every item for every user: the exact answer, by the same scorer as `search`.

    See `search` for the arguments and the result; `items` are [n, ...] here.
    """
    check_request(num_rows(items), num_rows(users), k, exclude, allowed)
    level = Level(None, params, users, items)
    return compiled_brute_force((level,), (), None, exclude, allowed, scorers=(scorer,), k=k)


def search_levels(
    levels,
    indexes,
    k: int,
    *,
    budgets,
    ensemble=None,
    max_beams=None,
    exclude=None,
    allowed=None,
    cost_weight=0.0,
) -> SearchResult:
    """Score the coarsest nodes, expand the best that the budget affords, and so on down to items.

    A level's score is the linear ensemble of the outputs of the levels down to it, those of an
    entry's ancestors and its own. Its nodes are taken as in `search`: in the order of score -
    cost_weight * log(entries of the list), while the cumulative number of entries fits the
    level's budget, and never a node without an item below it that the user may get. Budgets as
    large as what the levels list give `brute_force_levels`' answer. Changing the *values* of
    budgets, cost_weight, ensemble, exclude or allowed compiles nothing anew.

    Args:
      levels: N `Level`s, the coarsest first, the last one of the items. In the paper each is a
        MoNN: `MoNNScorer`, its parameters, `encode_users`, and `encode_items` of the nodes'
        representative items (`representative_items`).
      indexes: N - 1 `Index`es from `build_levels`.
      k: items to return.
      budgets: one an index: most of the next level's nodes to score for a user, the best list at
        least; the last one, most items. A number or int [B] each.
      ensemble: from `init_ensemble(N)`, or trained; None ranks each level by its own output.
      max_beams: one an index, static maximum of nodes visited; all by default.
      exclude, allowed: of items, see `search`.
      cost_weight: see `search`.

    Returns:
      `SearchResult`.

    Raises:
      ValueError: levels, indexes, budgets and ensemble do not fit together, or see `search`.
    """
    levels, indexes = tuple(levels), tuple(indexes)
    request, static = prepare_levels(
        levels,
        indexes,
        k,
        budgets=budgets,
        ensemble=ensemble,
        max_beams=max_beams,
        exclude=exclude,
        allowed=allowed,
        cost_weight=cost_weight,
    )
    return compiled_search(indexes, levels[-1].features, request, static=static)


def brute_force_levels(
    levels, indexes, k: int, *, ensemble=None, exclude=None, allowed=None
) -> SearchResult:
    """Score all nodes and all items: the exact answer of the ensemble of all levels.

    See `search_levels` for the arguments and the result; features are no `Tiles` here.
    """
    levels, indexes = tuple(levels), tuple(indexes)
    check_levels(levels, indexes, ensemble)
    num_items = num_rows(levels[-1].features)
    check_request(num_items, num_rows(levels[0].users), k, exclude, allowed)
    present = live(indexes[-1])
    return compiled_brute_force(
        tuple(level._replace(scorer=None) for level in levels),
        nodes_of_items(indexes),
        ensemble,
        exclude,
        present if allowed is None else jnp.asarray(allowed) & present,
        scorers=tuple(level.scorer for level in levels),
        k=k,
    )


def search_rows(
    levels: Sequence[Level],
    indexes: Sequence[Index],
    *,
    rows: jax.typing.ArrayLike,
    k: int,
    ensemble: dict | None = None,
    exclude: jax.typing.ArrayLike | None = None,
) -> SearchResult:
    """Score these items alone: the exact answer to a filter that few items pass.

    Args:
      levels, indexes, ensemble: see `search_levels`; features of items may be `Tiles`.
      rows: int32 [m], distinct rows of items, ascending, those in no list among the padding:
        2^31 - 1 at the end.
      k: items to return.
      exclude: see `search`.
    """
    levels, indexes = tuple(levels), tuple(indexes)
    check_levels(levels, indexes, ensemble)
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
        ensemble,
        exclude,
        present,
        scorers=scorers,
        k=k,
    )
    ids = jnp.where(found.ids < 0, -1, rows[found.ids])
    scored = jnp.broadcast_to(jnp.sum(present, dtype=jnp.int32), found.items_scored.shape)
    return found._replace(ids=ids, items_scored=scored)


def prepare(
    scorer,
    params,
    index,
    users,
    k,
    *,
    budget,
    max_beam=None,
    node_scorer=None,
    node_params=None,
    node_features=None,
    **masks,
) -> tuple[Request, Static]:
    """Validate the arguments of `search` and sort them into traced and static ones."""
    nodes = Level(
        scorer=node_scorer or scorer,
        params=params if node_params is None else node_params,
        users=users,
        features=index.nodes if node_features is None else node_features,
    )
    levels = nodes, Level(scorer, params, users, None)
    return descend.prepare(levels, (index,), k, budgets=(budget,), max_beams=(max_beam,), **masks)


def prepare_levels(
    levels, indexes, k, *, budgets, ensemble=None, max_beams=None, **masks
) -> tuple[Request, Static]:
    """Validate the arguments of `search_levels` and sort them into traced and static ones."""
    check_levels(levels, indexes, ensemble)
    max_beams = (None,) * len(indexes) if max_beams is None else tuple(max_beams)
    for name, given in (("budgets", budgets), ("max_beams", max_beams)):
        if len(given) != len(indexes):
            raise ValueError(
                f"{name} must have one entry an index, {len(indexes)}, got {len(given)}"
            )
    return descend.prepare(
        levels, indexes, k, budgets=budgets, max_beams=max_beams, ensemble=ensemble, **masks
    )


def check_levels(levels: tuple[Level, ...], indexes, ensemble) -> None:
    """Raise a ValueError unless the levels stand on these indexes."""
    if not indexes or len(levels) != len(indexes) + 1:
        raise ValueError(
            "levels must have one entry an index and one of the items, got "
            f"{len(levels)} for {len(indexes)} indexes"
        )
    for number, (index, finer) in enumerate(itertools.pairwise(indexes)):
        listed, nodes = index.positions.shape[0], finer.nodes.shape[0]
        if listed != nodes:
            raise ValueError(
                f"indexes[{number}] must list the {nodes} nodes of the next one, got {listed}"
            )
    rows = [index.nodes.shape[0] for index in indexes] + [indexes[-1].positions.shape[0]]
    for number, (level, expected) in enumerate(zip(levels, rows)):
        found = num_rows(descend.flat(level.features))
        if number and level.features is not descend.flat(level.features):
            expected = indexes[number - 1].lists.size
        if found != expected:
            raise ValueError(f"levels[{number}] must have {expected} features, got {found}")
        if num_rows(level.users) != num_rows(levels[0].users):
            raise ValueError(
                f"levels[{number}] must have {num_rows(levels[0].users)} users as levels[0], "
                f"got {num_rows(level.users)}"
            )
    if ensemble is not None and ensemble["bias"].shape != (len(levels),):
        raise ValueError(
            f"ensemble must be of {len(levels)} levels, got {ensemble['bias'].shape[0]}"
        )


@functools.partial(jax.jit, static_argnames="static")
def compiled_search(indexes, items, request, *, static):
    """Search on one device; see `descend.local_search`."""
    found = local_search(indexes, items, request, static)
    return descend.result(found, indexes, items, request, static)


@functools.partial(jax.jit, static_argnames=("scorers", "k"))
def compiled_brute_force(levels, node_of, ensemble, exclude, allowed, *, scorers, k):
    """Score all nodes of all levels and all items.

    Args:
      levels: N `Level`s without scorers.
      node_of: int32 [n] a level of nodes, what each item is below.
      ensemble: see `search_levels`; None for the items' own scores.
      exclude, allowed: see `search`.
      scorers, k: static.
    """
    num_items, num_users = num_rows(levels[-1].features), num_rows(levels[-1].users)
    if ensemble is None:
        levels, node_of, scorers = levels[-1:], (), scorers[-1:]

    def of_chunk(users, exclude):
        outputs = [
            score_all(scorer, level.params, of_level, level.features)
            for scorer, level, of_level in zip(scorers, levels, users)
        ]
        scores = outputs[-1]
        if ensemble is not None:
            above = [x.at[:, of].get(mode="clip") for x, of in zip(outputs, node_of)]
            scores = level_logit(ensemble, jnp.stack([*above, scores], axis=-1))
        if allowed is not None:
            scores = jnp.where(allowed[None, :], scores, -jnp.inf)
        if exclude is not None:
            columns = jnp.where(exclude < 0, num_items, exclude)
            rows = jnp.arange(scores.shape[0])[:, None]
            scores = scores.at[rows, columns].set(-jnp.inf, mode="drop")
        ids = jnp.arange(num_items, dtype=jnp.int32)[None, :]
        return top_k(scores, jnp.broadcast_to(ids, scores.shape), k)

    flops, width = 0.0, 0
    for scorer, level in zip(scorers, levels):
        per_user, per_row = pair_flops(scorer, level.params, level.users, level.features)
        flops += per_user + per_row * num_rows(level.features)
        width += num_items * max(1, round(per_row / _FLOPS_A_VALUE))
    users = tuple(level.users for level in levels)
    ids, scores = by_chunks(of_chunk, width, users, exclude)
    nodes = sum(num_rows(level.features) for level in levels[:-1])
    scored, nodes, unseen = (jnp.full(num_users, x, jnp.int32) for x in (num_items, nodes, 0))
    flops = jnp.full(num_users, flops, jnp.float32)
    return SearchResult(ids, scores, scored, flops, nodes, unseen)
