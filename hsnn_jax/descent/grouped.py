"""Score pages of width-major tiles: all users who read a page at once, a few at a time.

A page is read once for several users, and their scores are one product of matrices. Users are
sorted by the page they read; those beyond the few of one product wait for the next, so that none is
dropped however many read one page.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hsnn_jax.descent.beam import Array
from hsnn_jax.lists.index import Index
from hsnn_jax.lists.wide import WideTiles
from hsnn_jax.monn.scorers import score_all

_AT_ONCE = 4  # pages of a single user a step, of which each costs a microsecond or two


def score_grouped(
    scorer: Callable,
    params: Any,
    *,
    index: Index,
    tiles: WideTiles,
    users: Any,
    node: jax.Array,
    number: jax.Array,
    length: jax.Array,
    allowed: Array | None = None,
) -> jax.Array:
    """Score the slots of the first pages of every user.

    Args:
      scorer, params: see `search`.
      index: only the lists are read.
      tiles: of these lists.
      users: pytree of [B, ...].
      node, number: int32 [B, P], which page of which node.
      length: int32 [B], how many of the P pages count.
      allowed: bool [n] or None.

    Returns:
      float32 [B, P * W]; -inf where there is no item to return.
    """
    num_users, count = node.shape
    pages, width = tiles.features.shape[1], tiles.features.shape[3]
    by_page = tiles.features.reshape(-1, *tiles.features.shape[2:])
    group = _group(num_users)
    page = jnp.where(jnp.arange(count)[None, :] < length[:, None], node * pages + number, -1)

    def score(page, some):
        tile = jax.lax.dynamic_index_in_dim(by_page, page, keepdims=False)
        found = score_all(scorer, params, users=some, items=tile.T).astype(jnp.float32)
        return found, _wanted(index, page, pages, width, allowed)[None, :]

    def visit_some(i, scores):
        some = jax.lax.dynamic_slice_in_dim(padded, i * _AT_ONCE, _AT_ONCE)
        for j in range(_AT_ONCE):
            found, wanted = score(jnp.maximum(some[j], 0), users)
            found = jnp.where(wanted & (some[j] >= 0), found, -jnp.inf)
            scores = jax.lax.dynamic_update_slice_in_dim(scores, found, i * _AT_ONCE + j, axis=0)
        return scores

    if num_users == 1:  # whose pages come first as they are, and each is read once
        padded = jnp.pad(page[0], (0, -count % _AT_ONCE), constant_values=-1)
        scores = jnp.full((padded.size, width), -jnp.inf)
        scores = jax.lax.fori_loop(0, -(-length[0] // _AT_ONCE), visit_some, scores)
        return scores[:count].reshape(1, -1)
    order, in_order, ends, total = _sorted_by_page(page, by_page.shape[0])
    user_of = jnp.pad(order // count, (0, group))
    places = jnp.arange(group, dtype=jnp.int32)

    def visit(carry):
        first, scores = carry
        end = ends[first]
        some = jax.lax.dynamic_slice_in_dim(user_of, first, group)
        some = jax.tree.map(lambda x: x.at[some].get(mode="promise_in_bounds"), users)
        found, wanted = score(in_order[first], some)
        # What lies beyond the group is written again by the groups to come, or is no page.
        found = jnp.where(wanted & (first + places < end)[:, None], found, -jnp.inf)
        scores = jax.lax.dynamic_update_slice_in_dim(scores, found, first, axis=0)
        return jnp.minimum(first + group, end), scores

    scores = jnp.full((order.size + group, width), -jnp.inf)
    scores = jax.lax.while_loop(lambda carry: carry[0] < total, visit, (0, scores))[1]
    back = jnp.zeros_like(order).at[order].set(jnp.arange(order.size, dtype=jnp.int32))
    return scores.at[back].get(mode="promise_in_bounds").reshape(num_users, -1)


def _group(num_users: int) -> int:
    """Return how many users are scored at once: a product with few rows costs as with more."""
    return 2 if num_users < 16 else 4 if num_users < 384 else 8


def _sorted_by_page(page, num_pages: int):
    """Sort pairs of a user and a page by the page.

    Args:
      page: int32 [B, P]; -1 where there is none.
      num_pages: static.

    Returns:
      (which pairs, int32 [B * P]; their pages; where the run of the same page ends, int32 [B * P];
      int32 [], how many have a page: the first ones).
    """
    flat = page.reshape(-1)
    size, places = flat.size, jnp.arange(flat.size, dtype=jnp.int32)
    total = jnp.sum(flat >= 0, dtype=jnp.int32)
    flat = jnp.where(flat < 0, num_pages, flat)
    if (num_pages + 1) * size < 2**31:  # XLA:CPU sorts single integers five times as fast
        keys = jnp.sort(flat * size + places)
        order, flat = keys % size, keys // size
    else:
        flat, order = jax.lax.sort((flat, places), num_keys=1)
    last = jnp.append(flat[1:] != flat[:-1], True)
    ends = jax.lax.cummin(jnp.where(last, places + 1, size), reverse=True)
    return order, flat, ends, total


def _wanted(index, page, pages: int, width: int, allowed):
    """Return bool [W]: which slots of a page hold an item to return."""
    capacity = index.lists.shape[1]
    if capacity == pages * width:
        ids = index.lists.reshape(-1, width)
        ids = jax.lax.dynamic_index_in_dim(ids, page, keepdims=False)
    else:
        columns = page % pages * width + jnp.arange(width, dtype=jnp.int32)
        at = page // pages, jnp.minimum(columns, capacity - 1)
        ids = index.lists.at[at].get(mode="promise_in_bounds")
        ids = jnp.where(columns < capacity, ids, -1)
    wanted = ids >= 0
    if allowed is not None:
        wanted &= jnp.asarray(allowed).at[jnp.maximum(ids, 0)].get(mode="promise_in_bounds")
    return wanted
