"""Choose the nodes that each user visits, and score what those nodes list."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hsnn_jax.index import Index, Tiles


class Candidates(NamedTuple):
    """What a level has scored for each user."""

    ids: jax.Array | None  # int32 [B, M]: the level's nodes; None where M is all of them in order
    scores: jax.Array  # float32 [B, M]; -inf where there is no candidate
    outputs: jax.Array  # float32 [B, M, n]: of the models of the levels down to this one


class Beam(NamedTuple):
    """The nodes of each user, best first; those from `length` on are not visited."""

    nodes: jax.Array  # int32 [B, S]; K from `length` on
    length: jax.Array  # int32 [B]
    items: jax.Array  # int32 [B]: what the visited nodes list
    outputs: jax.Array  # float32 [B, S, n], see `Candidates`


class Slots(NamedTuple):
    """Places of items in the lists."""

    node: jax.Array  # int32 [...]; K where the item is not listed
    column: jax.Array  # int32 [...]


def route(found: Candidates, index: Index, left, *, budget, cost_weight, max_beam) -> Beam:
    """Take each user's best nodes while the cumulative number of what they list fits the budget.

    Args:
      found: of the nodes of the index.
      index: see `Index`; only the counts are read.
      left: int32 [B or 1, K] from `remaining`; nodes with none left are not taken.
      budget: int32 [B], most entries of the lists to score.
      cost_weight: nodes are ranked by score - cost_weight * log(entries of the list).
      max_beam: static S, most nodes.
    """
    left, counts = (_at(x, found.ids) for x in (left, index.counts[None, :]))
    priority = found.scores - cost_weight * jnp.log(jnp.maximum(counts, 1))
    priority = jnp.where(left > 0, priority, -jnp.inf)
    priority, slots = jax.lax.top_k(priority, max_beam)
    nodes = slots if found.ids is None else jnp.take_along_axis(found.ids, slots, axis=1)
    outputs = jnp.take_along_axis(found.outputs, slots[:, :, None], axis=1)
    spent = jnp.cumsum(index.counts[nodes], axis=1)
    visited = (spent <= budget[:, None]) & (priority > -jnp.inf)
    # `spent` grows and pruned nodes come last: what is visited is a prefix.
    length = jnp.sum(visited, axis=1, dtype=jnp.int32)
    # Entries that are no candidates may repeat a node that is visited.
    nodes = jnp.where(visited, nodes, index.nodes.shape[0])
    return Beam(nodes, length, jnp.max(jnp.where(visited, spent, 0), axis=1), outputs)


def open_counts(indexes, allowed) -> list:
    """Count the allowed items below each node: int32 [K] an index.

    Args:
      indexes: nested, the coarsest first.
      allowed: bool [n] or None.
    """
    finest = indexes[-1]
    counts = [finest.counts]
    if allowed is not None:
        node = finest.positions // finest.lists.shape[1]
        counts = [jax.ops.segment_sum(allowed.astype(jnp.int32), node, finest.nodes.shape[0])]
    for index in reversed(indexes[:-1]):
        below = counts[-1][jnp.maximum(index.lists, 0)]
        counts.append(jnp.sum(jnp.where(index.lists >= 0, below, 0), axis=1))
    return counts[::-1]


def remaining(indexes, opened, allowed, exclude) -> list:
    """Count the items below each node that a user may get: int32 [B, K] an index.

    Args:
      indexes: nested, the coarsest first.
      opened: from `open_counts`.
      allowed: bool [n] or None.
      exclude: int [B, E] or None, -1 for padding; without it the counts are [1, K].
    """
    if exclude is None:
        return [counts[None, :] for counts in opened]
    below = jnp.sort(exclude, axis=1)
    repeated = jnp.pad(below[:, 1:] == below[:, :-1], ((0, 0), (1, 0)))
    if allowed is not None:
        repeated |= ~allowed[jnp.clip(below, 0, allowed.shape[0] - 1)]
    gone = jnp.where(repeated, 0, 1)
    rows, left = jnp.arange(exclude.shape[0])[:, None], []
    for index, counts in zip(reversed(indexes), reversed(opened)):
        below = slots_of(index, below).node
        counts = jnp.broadcast_to(counts[None, :], (exclude.shape[0], counts.size))
        left.append(counts.at[rows, below].add(-gone, mode="drop"))
    return left[::-1]


def slots_of(index: Index, ids) -> Slots:
    """Return where items int [...] are listed; ids outside [0, n), as padding, have node K."""
    num_nodes, capacity = index.nodes.shape[0], index.lists.shape[1]
    num_items = index.positions.shape[0]
    position = index.positions[jnp.clip(ids, 0, num_items - 1)]
    known = (ids >= 0) & (ids < num_items)
    return Slots(jnp.where(known, position // capacity, num_nodes), position % capacity)


def owned(beam: Beam, excluded, first_node, index: Index):
    """Keep the visited nodes whose lists are held here, in order, numbered from `first_node`.

    Args:
      beam: nodes of the whole index.
      excluded: `Slots` of the whole index, or None.
      first_node: int32 [].
      index: holds the lists of nodes `first_node` on; the rest of it is whole.

    Returns:
      (beam, excluded) of this part; its `items` are still those of the whole beam.
    """
    num_nodes = index.lists.shape[0]
    if num_nodes == index.nodes.shape[0]:
        return beam, excluded
    visited = jnp.arange(beam.nodes.shape[1])[None, :] < beam.length[:, None]
    local = beam.nodes - first_node
    here = visited & (local >= 0) & (local < num_nodes)
    order = jnp.argsort(~here, axis=1, stable=True)[:, :num_nodes]
    nodes = jnp.take_along_axis(jnp.where(here, local, num_nodes), order, axis=1)
    outputs = jnp.take_along_axis(beam.outputs, order[:, :, None], axis=1)
    beam = Beam(nodes, jnp.sum(here, axis=1, dtype=jnp.int32), beam.items, outputs)
    if excluded is not None:
        local = excluded.node - first_node
        local = jnp.where((local >= 0) & (local < num_nodes), local, num_nodes)
        excluded = excluded._replace(node=local)
    return beam, excluded


def ranked(excluded: Slots, beam: Beam, num_nodes: int) -> Slots:
    """Return slots [B, E] with the node's rank in the beam for the node; S where not visited."""
    num_users, max_beam = beam.nodes.shape
    rows = jnp.arange(num_users)[:, None]
    ranks = jnp.full((num_users, num_nodes + 1), max_beam)
    ranks = ranks.at[rows, beam.nodes].set(jnp.arange(max_beam)[None, :])
    return excluded._replace(node=ranks[rows, excluded.node])


def block_of(beam: Beam, excluded, first, size: int):
    """Take `size` places of a beam from `first` on, and what is excluded there.

    Args:
      beam: the last block may reach beyond its end.
      excluded: from `ranked`, or None.
      first: int32 [], a multiple of `size`.
      size: static.

    Returns:
      (beam of at most `size` nodes, excluded); its `items` are still those of the whole beam.
    """

    def take(x):
        short = -x.shape[1] % size
        x = jnp.pad(x, ((0, 0), (0, short)) + ((0, 0),) * (x.ndim - 2))
        return jax.lax.dynamic_slice_in_dim(x, first, size, axis=1)

    length = jnp.clip(beam.length - first, 0, size)
    block = Beam(take(beam.nodes), length, beam.items, take(beam.outputs))
    if excluded is not None:
        rank = excluded.node - first
        # Below 0 it would count from the end; `size` is out of range and dropped.
        excluded = excluded._replace(node=jnp.where(rank < 0, size, rank))
    return block, excluded


def score_beam(scorer, params, lists, items, users, beam: Beam, *, allowed=None, excluded=None):
    """Score what the visited nodes list, one node of every user at a time.

    Runs as many rounds as the longest beam, so that the time follows the traced budget.

    Args:
      scorer, params: see `search`.
      lists: int32 [K, C].
      items: features of what is listed, a pytree of [n, ...], or `Tiles`.
      users: pytree of [B, ...].
      beam: see `route`.
      allowed: bool [n] or None.
      excluded: from `ranked`, or None.

    Returns:
      float32 [B, S * C], -inf where there is no item to return.
    """
    num_users, max_beam = beam.nodes.shape

    def visit(i, scores):
        nodes = jax.lax.dynamic_index_in_dim(beam.nodes, i, axis=1, keepdims=False)
        # Nodes beyond a beam's length may be out of range: clipped here, masked below.
        ids = lists.at[nodes].get(mode="clip")
        wanted = (ids >= 0) & (i < beam.length)[:, None]
        if allowed is not None:
            wanted &= allowed[jnp.maximum(ids, 0)]
        found = scorer(params, users, _features(items, nodes, ids))
        found = jnp.where(wanted, found, -jnp.inf).astype(scores.dtype)
        return jax.lax.dynamic_update_index_in_dim(scores, found, i, axis=1)

    scores = jnp.full((num_users, max_beam, lists.shape[1]), -jnp.inf)
    scores = jax.lax.fori_loop(0, jnp.max(beam.length), visit, scores)
    if excluded is not None:
        rows = jnp.arange(num_users)[:, None]
        scores = scores.at[rows, excluded.node, excluded.column].set(-jnp.inf, mode="drop")
    return scores.reshape(num_users, -1)


def _features(items, nodes, ids):
    if isinstance(items, Tiles):
        return jax.tree.map(lambda tiles: tiles.at[nodes].get(mode="clip"), items.features)
    return jax.tree.map(lambda feature: feature[jnp.maximum(ids, 0)], items)


def _at(by_node, ids):
    """Take values [B or 1, K] at nodes [B, M]; at all of them in order where `ids` is None."""
    return by_node if ids is None else jnp.take_along_axis(by_node, ids, axis=1)
