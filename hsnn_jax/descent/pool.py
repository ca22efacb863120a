"""The second stage of a search: score again what a cheaper scorer has chosen."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hsnn_jax.descent.beam import Beam
from hsnn_jax.lists.index import Index, Tiles

ROUND = 64  # items of a user that are scored at once


def check_pool(cheap: Any, pool: int, *, k: int, num_items: int) -> int:
    """Return how many items the cheap scorer chooses, at most all; 0 without one.

    Raises:
      ValueError: there is a pool without a scorer or the other way round, or it is below k.
    """
    if cheap is None and not pool:
        return 0
    if cheap is None or pool < k:
        given = "no cheap scorer" if cheap is None else f"{pool}"
        raise ValueError(f"pool: expected a cheap scorer and at least k, {k}, found {given}")
    return min(pool, num_items)


def filled(pool: int) -> int:
    """Return how many items are scored again: whole rounds where there are several."""
    return pool if pool <= ROUND else -(-pool // ROUND) * ROUND


def left_out(left: jax.Array, ids: jax.Array) -> jax.Array:
    """Count the items that each user may get and that are not in the pool, int32 [B].

    Args:
      left: int32 [B or 1, K] from `beam.remaining`.
      ids: int32 [B, P], the pool; -1 where there is no item.
    """
    return jnp.sum(left, axis=1, dtype=jnp.int32) - jnp.sum(ids >= 0, axis=1, dtype=jnp.int32)


def score_pool(
    scorer: Callable,
    params: Any,
    *,
    ids: jax.Array,
    users: Any,
    items: Any,
    index: Index,
    beam: Beam,
    first_node: jax.Array | int,
) -> tuple[jax.Array, jax.Array]:
    """Score the items of a pool, and find what the nodes that list them put out.

    Args:
      scorer, params: see `search`.
      ids: int32 [B, P]; -1 where there is no item.
      users: pytree of [B, ...].
      items: pytree of [n, ...], or `Tiles` of the lists that are held here.
      index: its lists are those held here, from node `first_node` on; all the rest is whole.
      beam: of the whole index.
      first_node: int32 [].

    Returns:
      (scores float [B, P], -inf where no item is listed here; outputs float [B, P, n] of the
      levels above).
    """
    capacity, num_users = index.lists.shape[1], ids.shape[0]
    position = index.positions[jnp.maximum(ids, 0)]
    slot = position - first_node * capacity
    here = (ids >= 0) & (slot >= 0) & (slot < index.lists.size)
    rows = jnp.clip(slot, 0, index.lists.size - 1) if isinstance(items, Tiles) else ids
    scores = score_rows_of(scorer, params, rows=rows, users=users, items=by_row(items))
    order = jnp.arange(beam.nodes.shape[1])[None, :]
    ranks = jnp.zeros((num_users, index.nodes.shape[0] + 1), jnp.int32)
    ranks = ranks.at[jnp.arange(num_users)[:, None], beam.nodes].set(order)
    rank = jnp.take_along_axis(ranks, jnp.minimum(position // capacity, ranks.shape[1] - 1), axis=1)
    above = jnp.take_along_axis(beam.outputs, rank[:, :, None], axis=1)
    return jnp.where(here, scores, -jnp.inf), above


def by_row(items: Any) -> Any:
    """Return features as [rows, ...], those of `Tiles` by slot."""
    if not isinstance(items, Tiles):
        return items
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), items.features)


def score_rows_of(
    scorer: Callable, params: Any, *, rows: jax.Array, users: Any, items: Any
) -> jax.Array:
    """Score rows that differ from user to user, a few of each at a time: float32 [B, P].

    Args:
      scorer, params: see `search`.
      rows: int32 [B, P]; what is below 0 is read as row 0.
      users: pytree of [B, ...].
      items: pytree of [n, ...].
    """

    def of_round(rows):
        features = jax.tree.map(lambda x: x.at[jnp.maximum(rows, 0)].get(mode="clip"), items)
        return scorer(params, users, features).astype(jnp.float32)

    num_users, size = rows.shape
    if size <= ROUND:
        return of_round(rows)
    rounds = jnp.pad(rows, ((0, 0), (0, filled(size) - size))).reshape(num_users, -1, ROUND)
    scores = jax.lax.map(of_round, jnp.swapaxes(rounds, 0, 1))
    return jnp.swapaxes(scores, 0, 1).reshape(num_users, -1)[:, :size]
