"""Search through several levels of nodes with a model a level: the serving of HSNN.

Source: arXiv 2408.06653v3, serving of the hierarchical structured neural network.
"""

import itertools

import jax.numpy as jnp

from hsnn_jax.chunks import num_rows
from hsnn_jax.descent import descend
from hsnn_jax.descent.descend import Level, Request, SearchResult, Static, check_request
from hsnn_jax.descent.search import compiled_brute_force, compiled_search
from hsnn_jax.lists.index import live
from hsnn_jax.lists.levels import nodes_of_items


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
      budgets: one an index, at least its lists' capacity: most of the next level's nodes to
        score for a user; the last one, most items. A number or int [B] each.
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
