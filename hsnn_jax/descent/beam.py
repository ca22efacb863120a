"""Choose the nodes that each user visits."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hsnn_jax.lists.index import Index
from hsnn_jax.top_k import top_k

Array = jax.Array | np.ndarray

# Nodes that are put in order at first, half as many for few users: a search visits ten of a
# thousand, but more where nodes are small, and all users go by the longest beam.
_FEW = 64
_MANY = 16  # users for whom a threshold is faster, see `shortlist`


class Candidates(NamedTuple):
    """What a level has scored for each user."""

    ids: jax.Array | None  # int32 [B, M]: the level's nodes; None where M is all of them in order
    scores: jax.Array  # float32 [B, M]; -inf where there is no candidate
    outputs: jax.Array  # float32 [B, M, n]: of the models of the levels down to this one


class Beam(NamedTuple):
    """The nodes that each user visits, best first; places beyond them have an extent of 0."""

    nodes: jax.Array  # int32 [B, S]; K beyond
    extents: jax.Array  # int32 [B, S]: slots that a search reads of the list
    items: jax.Array  # int32 [B]: what the visited nodes list
    outputs: jax.Array  # float32 [B, S, n], see `Candidates`


class Slots(NamedTuple):
    """Places of items in the lists."""

    node: jax.Array  # int32 [...]; K where the item is not listed
    column: jax.Array  # int32 [...]


def route(
    found: Candidates,
    index: Index,
    *,
    left: jax.Array,
    budget: jax.Array,
    max_beam: int,
    then: Callable | None = None,
) -> Any:
    """Take each user's best nodes while the cumulative number of what they list fits the budget.

    The best one is taken whatever it lists: a budget below it would buy nothing.

    Args:
      found: of the nodes of the index.
      index: see `Index`; only counts and extents are read.
      left: int32 [B or 1, K] from `remaining`; nodes with none left are not taken.
      budget: int32 [B], most entries of the lists to score.
      max_beam: static S, most nodes.
      then: what is made of the beam, compiled for a short one too, which is taken where it
        holds what all users afford: work on the places of a beam is then not in proportion to S.

    Returns:
      then(beam), or the `Beam`.
    """
    left, counts = (_at(x, found.ids) for x in (left, index.counts[None, :]))
    # A sort takes NaN for the largest number; such a node comes last, for those who afford all.
    least = jnp.finfo(found.scores.dtype).min
    priority = jnp.where(jnp.isnan(found.scores), least, found.scores)
    priority = jnp.where(left > 0, priority, -jnp.inf)
    size = min(_FEW if len(priority) >= _MANY else max(_FEW // 2, 1), max_beam)
    if then is None or 2 * size >= max_beam:
        beam = _beam(found, index, budget, *_best(priority, counts, budget, size, max_beam))
        return beam if then is None else then(beam)
    first = _ordered(priority, size)
    return jax.lax.cond(
        _suffice(*first, counts, budget),
        lambda: then(_beam(found, index, budget, *first)),
        lambda: then(
            _beam(found, index, budget, *_best(priority, counts, budget, 8 * size, max_beam))
        ),
    )


def _beam(found: Candidates, index: Index, budget, priority, slots) -> Beam:
    """Return the nodes at slots int32 [B, S], best first, as far as the budgets reach."""
    nodes = slots if found.ids is None else jnp.take_along_axis(found.ids, slots, axis=1)
    outputs = jnp.take_along_axis(found.outputs, slots[:, :, None], axis=1)
    spent = jnp.cumsum(index.counts[nodes], axis=1)
    first = jnp.arange(spent.shape[1])[None, :] == 0
    visited = ((spent <= budget[:, None]) | first) & (priority > -jnp.inf)
    # `spent` grows and pruned nodes come last: what is visited is a prefix.
    items = jnp.max(jnp.where(visited, spent, 0), axis=1)
    extents = jnp.where(visited, index.extents[nodes], 0)
    # Entries that are no candidates may repeat a node that is visited.
    return Beam(jnp.where(visited, nodes, index.nodes.shape[0]), extents, items, outputs)


def _best(priority, counts, budget, size: int, most: int):
    """Order the `most` best nodes of each user, or as many of them as no budget reaches beyond.

    Few of many nodes are visited, and to put all in order takes longer than the rest of a search:
    the best `size` are, and more only if some user can afford them all.

    Args:
      priority: float [B, M]; -inf where a node is not taken.
      counts: int32 [B or 1, M], what the nodes list.
      budget: int32 [B].
      size, most: static.

    Returns:
      (priorities float [B, most], places int32 [B, most]); after the ordered ones -inf, and 0.
    """
    size = min(size, most)
    values, places = _ordered(priority, size)
    if size == most:
        return values, places

    def padded():
        rest = ((0, 0), (0, most - size))
        return jnp.pad(values, rest, constant_values=-jnp.inf), jnp.pad(places, rest)

    def longer():
        return _best(priority, counts, budget, min(8 * size, most), most)

    return jax.lax.cond(_suffice(values, places, counts, budget), padded, longer)


def _ordered(priority, size: int):
    """Return the best priorities float [B, size] and their places int32, ties by place."""
    if len(priority) < _MANY:  # XLA's own rule for ties is this one
        values, places = jax.lax.top_k(priority, size)
        # Without the barriers XLA:CPU puts all in order after all, see `top_k`.
        return jax.lax.optimization_barrier(values), jax.lax.optimization_barrier(places)
    places, values = top_k(priority, lambda rows, slots: slots, k=size)
    return values, jnp.maximum(places, 0)


def _suffice(values, places, counts, budget):
    """Tell whether all users spend their budget on these nodes, or have no others: bool []."""
    rows = jnp.arange(len(counts))[:, None]  # one, of all users, or theirs
    listed = counts[rows, places]
    return jnp.all((jnp.sum(listed, axis=1) > budget) | (values[:, -1] == -jnp.inf))


def open_counts(indexes: Sequence[Index], allowed: Array | None) -> list:
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


def remaining(
    indexes: Sequence[Index],
    opened: Sequence,
    *,
    allowed: Array | None,
    exclude: Array | None,
) -> list:
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


def unseen_items(beam: Beam, left: jax.Array) -> jax.Array:
    """Count the items that each user may get and that no visited node lists, int32 [B].

    Args:
      beam: see `Beam`.
      left: int32 [B or 1, K] from `remaining`.
    """
    nodes = jnp.minimum(beam.nodes, left.shape[1] - 1)
    rows = jnp.arange(left.shape[0])[:, None]  # one, of all users, or theirs
    listed = jnp.where(beam.extents > 0, left[rows, nodes], 0)
    return jnp.sum(left, axis=1, dtype=jnp.int32) - jnp.sum(listed, axis=1, dtype=jnp.int32)


def slots_of(index: Index, ids: Array) -> Slots:
    """Return where items int [...] are listed; ids outside [0, n), as padding, have node K."""
    num_nodes, capacity = index.nodes.shape[0], index.lists.shape[1]
    num_items = index.positions.shape[0]
    position = index.positions[jnp.clip(ids, 0, num_items - 1)]
    known = (ids >= 0) & (ids < num_items)
    return Slots(jnp.where(known, position // capacity, num_nodes), position % capacity)


def owned(
    beam: Beam, excluded: Slots | None, *, first_node: jax.Array | int, index: Index
) -> tuple[Beam, Slots | None]:
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
    local = beam.nodes - first_node
    here = (beam.extents > 0) & (local >= 0) & (local < num_nodes)
    order = jnp.argsort(~here, axis=1, stable=True)[:, :num_nodes]
    nodes, extents = (
        jnp.take_along_axis(jnp.where(here, x, other), order, axis=1)
        for x, other in ((local, num_nodes), (beam.extents, 0))
    )
    outputs = jnp.take_along_axis(beam.outputs, order[:, :, None], axis=1)
    beam = Beam(nodes, extents, beam.items, outputs)
    if excluded is not None:
        local = excluded.node - first_node
        local = jnp.where((local >= 0) & (local < num_nodes), local, num_nodes)
        excluded = excluded._replace(node=local)
    return beam, excluded


def _at(by_node, ids):
    """Take values [B or 1, K] at nodes [B, M]; at all of them in order where `ids` is None."""
    return by_node if ids is None else jnp.take_along_axis(by_node, ids, axis=1)
