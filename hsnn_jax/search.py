"""Search: brute force over all items, and level by level through an index."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hsnn_jax.chunks import by_chunks, num_rows
from hsnn_jax.index import Index, Tiles
from hsnn_jax.route import owned, route, score_beam, slots_of
from hsnn_jax.scorers import pair_flops, score_all
from hsnn_jax.top_k import top_k


class SearchResult(NamedTuple):
    """Retrieved items, best first, and what they cost."""

    ids: jax.Array  # int32 [B, k]; -1 where fewer than k items were found
    scores: jax.Array  # float32 [B, k]; -inf there
    items_scored: jax.Array  # int32 [B]; items whose score was computed, filtered ones included
    flops: jax.Array  # float32 [B]; scorer operations on nodes and all slots visited


class Request(NamedTuple):
    """What may change from call to call without a new compilation."""

    users: Any  # pytree of [B, ...]
    budget: jax.Array  # int32 [B]
    exclude: jax.Array | None  # int [B, E]
    allowed: jax.Array | None  # bool [n]
    cost_weight: jax.Array | float
    params: Any
    node_params: Any
    node_features: Any


class Static(NamedTuple):
    """What a compiled search is specialised to."""

    scorer: Any
    node_scorer: Any
    k: int
    max_beam: int


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
      budget: most items to score for a user, at least one list's capacity; a number or int [B].
      max_beam: static maximum of nodes visited; all by default. Scores of max_beam * C items
        are ranked whatever the budget, so a maximum near the budgets in use is faster.
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
    return _search(index, items, request, static=static)


def brute_force(
    scorer, params, items, users, k: int, *, exclude=None, allowed=None
) -> SearchResult:
    """Score every item for every user: the exact answer, by the same scorer as `search`.

    See `search` for the arguments and the result; `items` are [n, ...] here.
    """
    _check_request(num_rows(items), num_rows(users), k, exclude, allowed)
    return _brute_force(params, items, users, exclude, allowed, scorer=scorer, k=k)


def prepare(
    scorer,
    params,
    index,
    users,
    k,
    *,
    budget,
    max_beam=None,
    exclude=None,
    allowed=None,
    cost_weight=0.0,
    node_scorer=None,
    node_params=None,
    node_features=None,
) -> tuple[Request, Static]:
    """Validate the arguments of `search` and sort them into traced and static ones."""
    num_nodes, capacity = index.lists.shape
    max_beam = num_nodes if max_beam is None else min(max_beam, num_nodes)
    _check_request(index.positions.shape[0], num_rows(users), k, exclude, allowed)
    if max_beam < 1:
        raise ValueError(f"max_beam must be >= 1, got {max_beam=}")
    if not isinstance(budget, jax.core.Tracer) and np.min(budget) < capacity:
        raise ValueError(
            f"budget must be at least one node's capacity, {capacity} items, got {np.min(budget)}"
        )
    request = Request(
        users=users,
        budget=jnp.broadcast_to(jnp.asarray(budget, jnp.int32), (num_rows(users),)),
        exclude=exclude,
        allowed=allowed,
        cost_weight=cost_weight,
        params=params,
        node_params=params if node_params is None else node_params,
        node_features=index.nodes if node_features is None else node_features,
    )
    return request, Static(scorer, node_scorer or scorer, k, max_beam)


def local_search(index: Index, items, request: Request, static: Static, first_node=0):
    """Search the lists that are held here, those of nodes from `first_node` on.

    Args:
      index: its lists are [K here, C]; the rest of it is whole.
      items: [n, ...], or `Tiles` of these lists.
      request, static: from `prepare`.
      first_node: int32 [].

    Returns:
      (ids [B, k], scores [B, k]) from here; (items scored [B], nodes visited [B]) everywhere.
    """

    def of_chunk(users, budget, exclude):
        node_scores = score_all(
            static.node_scorer, request.node_params, users, request.node_features
        )
        beam = route(
            node_scores,
            index,
            budget=budget,
            cost_weight=request.cost_weight,
            max_beam=static.max_beam,
            allowed=request.allowed,
            exclude=exclude,
        )
        excluded = None if exclude is None else slots_of(index, exclude)
        here, excluded_here = owned(beam, excluded, first_node, index)
        scores = score_beam(
            static.scorer,
            request.params,
            index.lists,
            items,
            users,
            here,
            allowed=request.allowed,
            excluded=excluded_here,
        )
        ids, scores = top_k(scores, index.lists[here.nodes].reshape(scores.shape), static.k)
        return ids, scores, beam.items, beam.length

    capacity = index.lists.shape[1]
    width = max(static.max_beam * capacity, index.nodes.shape[0], capacity * _item_size(items))
    return by_chunks(of_chunk, width, request.users, request.budget, request.exclude)


def result(found, items, request: Request, static: Static, index: Index) -> SearchResult:
    """Add the cost to what `local_search` found."""
    ids, scores, scored, visited = found
    features = _flat(items)
    per_user, per_item = pair_flops(static.scorer, request.params, request.users, features)
    node_user, per_node = pair_flops(
        static.node_scorer, request.node_params, request.users, request.node_features
    )
    fixed = per_user + node_user + per_node * index.nodes.shape[0]
    flops = fixed + per_item * index.lists.shape[1] * visited.astype(jnp.float32)
    return SearchResult(ids, scores, scored, flops)


@functools.partial(jax.jit, static_argnames="static")
def _search(index, items, request, *, static):
    found = local_search(index, items, request, static)
    return result(found, items, request, static, index)


@functools.partial(jax.jit, static_argnames=("scorer", "k"))
def _brute_force(params, items, users, exclude, allowed, *, scorer, k):
    num_items, num_users = num_rows(items), num_rows(users)

    def of_chunk(users, exclude):
        scores = score_all(scorer, params, users, items)
        if allowed is not None:
            scores = jnp.where(allowed[None, :], scores, -jnp.inf)
        if exclude is not None:
            columns = jnp.where(exclude < 0, num_items, exclude)
            rows = jnp.arange(scores.shape[0])[:, None]
            scores = scores.at[rows, columns].set(-jnp.inf, mode="drop")
        ids = jnp.arange(num_items, dtype=jnp.int32)[None, :]
        return top_k(scores, jnp.broadcast_to(ids, scores.shape), k)

    ids, scores = by_chunks(of_chunk, num_items, users, exclude)
    per_user, per_item = pair_flops(scorer, params, users, items)
    flops = jnp.full(num_users, per_user + per_item * num_items, jnp.float32)
    return SearchResult(ids, scores, jnp.full(num_users, num_items, jnp.int32), flops)


def _flat(items):
    """Return the features as [n, ...] shapes, whichever way they are laid out."""
    if not isinstance(items, Tiles):
        return items
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((x.shape[0] * x.shape[1], *x.shape[2:]), x.dtype),
        items.features,
    )


def _item_size(items):
    return sum(int(np.prod(x.shape[1:])) for x in jax.tree.leaves(_flat(items)))


def _check_request(num_items, num_users, k, exclude, allowed):
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
