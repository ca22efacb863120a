"""Search through one level of nodes or several, and brute force over all items.

Source of several levels with a model a level: arXiv 2408.06653v3, serving of the hierarchical
structured neural network.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hsnn_jax.chunks import by_chunks, num_rows, values_of
from hsnn_jax.descent import descend
from hsnn_jax.descent.beam import Array
from hsnn_jax.descent.descend import (
    Level,
    Request,
    SearchResult,
    Static,
    check_request,
    local_search,
)
from hsnn_jax.descent.recall import Wanted
from hsnn_jax.lists.checks import check_cast
from hsnn_jax.lists.index import Index, live, page_width
from hsnn_jax.lists.levels import nodes_of_items
from hsnn_jax.lists.wide import WideTiles
from hsnn_jax.monn.ensemble import level_logit
from hsnn_jax.monn.scorers import pair_flops, score_all
from hsnn_jax.top_k import top_k


def search(
    scorer: Callable,
    params: Any,
    *,
    index: Index,
    items: Any,
    users: Any,
    k: int,
    budget: ArrayLike,
    max_beam: int | None = None,
    exclude: Array | None = None,
    allowed: Array | None = None,
    node_scorer: Callable | None = None,
    node_params: Any = None,
    node_features: Any = None,
) -> SearchResult:
    """Score the nodes, then the items of the best nodes that the budget affords.

    Nodes are taken in the order of their scores, while the cumulative number of items fits the
    budget; a node that holds no item that the user may get is not taken. A budget of n with a full
    `max_beam` gives `brute_force`'s answer. Changing the *value* of budget, exclude or allowed
    compiles nothing anew.

    Args:
      scorer: scorer(params, users [B, ...], items [B, m, ...]) -> [B, m]; hashable and stable,
        e.g. a module-level function or a Flax module's `apply`.
      params: its parameters.
      index: see `Index`.
      items: item features, an array or pytree of [n, ...]; or `Tiles` from `pack`; vectors may be
        `WideTiles` from `pack_wide`, the fastest for inner products of many users.
      users: array or pytree of [B, ...].
      k: items to return.
      budget: most items to score for a user, a number or int [B]. The best node is visited
        whatever it lists.
      max_beam: static maximum of nodes visited; all by default. So many nodes are put in order
        whatever the budget; what they list is scored and ranked as far as the budget reaches.
      exclude: optional int [B, E], ids that a user must not get, -1 for padding.
      allowed: optional bool [n], a filter shared by all users.
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
        index=index,
        users=users,
        k=k,
        budget=budget,
        max_beam=max_beam,
        exclude=exclude,
        allowed=allowed,
        node_scorer=node_scorer,
        node_params=node_params,
        node_features=node_features,
    )
    check_cast("items", items)
    return compiled_search((index,), items, request=request, static=static)


def brute_force(
    scorer: Callable,
    params: Any,
    *,
    items: Any,
    users: Any,
    k: int,
    exclude: Array | None = None,
    allowed: Array | None = None,
) -> SearchResult:
    """Score every item for every user: the exact answer, by the same scorer as `search`.

    See `search` for the arguments and the result; `items` are [n, ...] here.
    """
    check_request(num_rows(items), num_rows(users), k=k, exclude=exclude, allowed=allowed)
    check_cast("users", users)
    check_cast("items", items)
    level = Level(None, params, users, items)
    return compiled_brute_force(
        (level,), (), ensemble=None, exclude=exclude, allowed=allowed, scorers=(scorer,), k=k
    )


def search_levels(
    levels: Sequence,
    indexes: Sequence[Index],
    *,
    k: int,
    budgets: Sequence,
    ensemble: dict | None = None,
    max_beams: Sequence | None = None,
    exclude: Array | None = None,
    allowed: Array | None = None,
    cheap: Level | None = None,
    pool: int = 0,
    wanted: Wanted | None = None,
) -> SearchResult:
    """Score the coarsest nodes, expand the best that the budget affords, and so on down to items.

    A level's score is the linear ensemble of the outputs of the levels down to it, those of an
    entry's ancestors and its own. Its nodes are taken as in `search`: in the order of their
    scores, while the cumulative number of entries fits the level's budget, and never a node
    without an item below it that the user may get. Budgets as large as what the levels list give
    `brute_force_levels`' answer. Changing the *values* of budgets, ensemble, exclude or allowed
    compiles nothing anew.

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
      cheap: a `Level` that scores the listed items first; the last level then scores the `pool`
        best of these alone. `unseen` counts all others.
      pool: static, at least k.
      wanted: for an estimate of recall, see `recall.Wanted`; of one level of nodes, without a pool
        or an ensemble.

    Returns:
      `SearchResult`.

    Raises:
      ValueError: levels, indexes, budgets and ensemble do not fit together, or see `search`.
    """
    levels, indexes = tuple(levels), tuple(indexes)
    request, static = prepare_levels(
        levels,
        indexes,
        k=k,
        budgets=budgets,
        ensemble=ensemble,
        max_beams=max_beams,
        exclude=exclude,
        allowed=allowed,
        cheap=cheap,
        pool=pool,
        wanted=wanted,
    )
    given: dict[str, Any] = {"cheap_items": None if cheap is None else cheap.features}
    return compiled_search(indexes, levels[-1].features, request=request, static=static, **given)


def brute_force_levels(
    levels: Sequence,
    indexes: Sequence[Index],
    *,
    k: int,
    ensemble: dict | None = None,
    exclude: Array | None = None,
    allowed: Array | None = None,
) -> SearchResult:
    """Score all nodes and all items: the exact answer of the ensemble of all levels.

    See `search_levels` for the arguments and the result; features are no `Tiles` here.
    """
    levels, indexes = tuple(levels), tuple(indexes)
    check_levels(levels, indexes, ensemble=ensemble)
    num_items = num_rows(levels[-1].features)
    check_request(num_items, num_rows(levels[0].users), k=k, exclude=exclude, allowed=allowed)
    present = live(indexes[-1])
    return compiled_brute_force(
        tuple(level._replace(scorer=None) for level in levels),
        nodes_of_items(indexes),
        ensemble=ensemble,
        exclude=exclude,
        allowed=present if allowed is None else jnp.asarray(allowed) & present,
        scorers=tuple(level.scorer for level in levels),
        k=k,
    )


def prepare(
    scorer: Callable,
    params: Any,
    *,
    index: Index,
    users: Any,
    k: int,
    budget: ArrayLike,
    max_beam: int | None = None,
    node_scorer: Callable | None = None,
    node_params: Any = None,
    node_features: Any = None,
    **masks: Any,
) -> tuple[Request, Static]:
    """Validate the arguments of `search` and sort them into traced and static ones."""
    nodes = Level(
        scorer=node_scorer or scorer,
        params=params if node_params is None else node_params,
        users=users,
        features=index.nodes if node_features is None else node_features,
    )
    levels = nodes, Level(scorer, params, users, None)
    return descend.prepare(levels, (index,), k=k, budgets=(budget,), max_beams=(max_beam,), **masks)


def prepare_levels(
    levels: Sequence,
    indexes: Sequence[Index],
    *,
    k: int,
    budgets: Sequence,
    ensemble: dict | None = None,
    max_beams: Sequence | None = None,
    **masks: Any,
) -> tuple[Request, Static]:
    """Validate the arguments of `search_levels` and sort them into traced and static ones."""
    check_levels(levels, indexes, ensemble=ensemble)
    max_beams = (None,) * len(indexes) if max_beams is None else tuple(max_beams)
    for name, given in (("budgets", budgets), ("max_beams", max_beams)):
        if len(given) != len(indexes):
            raise ValueError(
                f"{name}: expected {len(indexes)} entries, one per index, found {len(given)}"
            )
    return descend.prepare(
        levels, indexes, k=k, budgets=budgets, max_beams=max_beams, ensemble=ensemble, **masks
    )


def check_levels(
    levels: Sequence[Level], indexes: Sequence[Index], *, ensemble: dict | None
) -> None:
    """Raise a ValueError unless the levels stand on these indexes."""
    if not indexes or len(levels) != len(indexes) + 1:
        raise ValueError(
            "levels: expected one per index and one of the items, found "
            f"{len(levels)} for {len(indexes)} indexes"
        )
    for number, (index, finer) in enumerate(itertools.pairwise(indexes)):
        listed, nodes = index.positions.shape[0], finer.nodes.shape[0]
        if listed != nodes:
            raise ValueError(
                f"indexes[{number}]: expected to list the next one's {nodes} nodes, found {listed}"
            )
    rows = [index.nodes.shape[0] for index in indexes] + [indexes[-1].positions.shape[0]]
    for number, (level, expected) in enumerate(zip(levels, rows)):
        check_cast(f"levels[{number}].features", level.features)
        check_cast(f"levels[{number}].users", level.users)
        found = num_rows(descend.flat(level.features))
        if number and level.features is not descend.flat(level.features):
            expected = _slots_in(indexes[number - 1], level.features)
        if found != expected:
            raise ValueError(f"levels[{number}]: expected {expected} features, found {found}")
        if num_rows(level.users) != num_rows(levels[0].users):
            raise ValueError(
                f"levels[{number}]: expected {num_rows(levels[0].users)} users as in levels[0], "
                f"found {num_rows(level.users)}"
            )
    if ensemble is not None and ensemble["bias"].shape != (len(levels),):
        raise ValueError(
            f"ensemble: expected {len(levels)} levels, found {ensemble['bias'].shape[0]}"
        )


def _slots_in(index, tiles):
    """Return how many slots tiles of an index have; width-major ones end with a whole page."""
    num_nodes, capacity = index.lists.shape
    page = page_width(capacity) if isinstance(tiles, WideTiles) else 1
    return num_nodes * -(-capacity // page) * page


@functools.partial(jax.jit, static_argnames="static")
def compiled_search(
    indexes: tuple[Index, ...],
    items: Any,
    *,
    request: Request,
    static: Static,
    cheap_items: Any = None,
) -> SearchResult:
    """Search on one device; see `descend.local_search`."""
    given = {"request": request, "static": static, "cheap_items": cheap_items}
    found = local_search(indexes, items, **given)
    return descend.result(found, indexes, items=items, **given)


@functools.partial(jax.jit, static_argnames=("scorers", "k"))
def compiled_brute_force(
    levels: tuple,
    node_of: tuple,
    *,
    ensemble: dict | None,
    exclude: jax.Array | None,
    allowed: jax.Array | None,
    scorers: tuple,
    k: int,
) -> SearchResult:
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
            score_all(scorer, level.params, users=of_level, items=level.features)
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
        return top_k(scores, jnp.broadcast_to(ids, scores.shape), k=k)

    flops, width = 0.0, 0
    for scorer, level in zip(scorers, levels):
        per_user, per_row = pair_flops(
            scorer, level.params, users=level.users, items=level.features
        )
        flops += per_user + per_row * num_rows(level.features)
        width += values_of(num_items, flops=per_row)
    users = tuple(level.users for level in levels)
    ids, scores = by_chunks(of_chunk, width, users, exclude)
    nodes = sum(num_rows(level.features) for level in levels[:-1])
    scored, nodes, unseen = (jnp.full(num_users, x, jnp.int32) for x in (num_items, nodes, 0))
    flops = jnp.full(num_users, flops, jnp.float32)
    return SearchResult(ids, scores, scored, flops, nodes, unseen, jnp.ones(num_users))
