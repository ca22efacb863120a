"""Find the best of what the visited nodes list, a block of their pages at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hsnn_jax.descent.beam import Array, Beam, Candidates
from hsnn_jax.descent.grouped import score_grouped
from hsnn_jax.descent.pages import (
    Pages,
    page_slots,
    pages_in,
    pages_of,
    score_pages,
    whole_rounds,
    without,
)
from hsnn_jax.lists.index import Index
from hsnn_jax.lists.wide import WideTiles
from hsnn_jax.monn.ensemble import level_logit
from hsnn_jax.top_k import top_k


def most_pages(beam: Beam, index: Index, *, size: int) -> int:
    """Return how many pages of a size a user's beam may have, in whole rounds."""
    pages = pages_in(index.lists.shape[1], size=size)
    return whole_rounds(beam.nodes.shape[1] * pages, size=size)


def scored(
    scorer: Callable,
    params: Any,
    *,
    index: Index,
    items: Any,
    users: Any,
    beam: Beam,
    first: jax.Array | int,
    count: int,
    ensemble: dict | None,
    allowed: Array | None = None,
    excluded: Any = None,
) -> Candidates:
    """Score pages `first` to `first + count - 1` of all that the beam's nodes list.

    Args:
      scorer, params: see `search`.
      index, items, users, allowed, excluded: see `score_pages`; or `items` are `WideTiles`.
      beam: see `beam.Beam`.
      first: int32 [].
      count: static, as many as `whole_rounds`.
      ensemble: see `candidates`.
    """
    size = page_slots(index, items)
    pages = pages_of(beam, size=size, first=first, count=count)
    given: dict[str, Any] = {"index": index, "users": users, "allowed": allowed}
    if isinstance(items, WideTiles):
        read = {"node": pages.node, "number": pages.number, "length": pages.length}
        scores = score_grouped(scorer, params, tiles=items, **read, **given)
        scores, ids = without(scores, excluded, pages=pages, size=size), _ids_at(pages, index, size)
    else:
        given |= {"items": items, "pages": pages, "excluded": excluded}
        ids, scores = score_pages(scorer, params, **given)
    outputs = jnp.take_along_axis(beam.outputs, pages.rank[:, :, None], axis=1)
    return candidates(ids, scores, above=outputs, ensemble=ensemble)


def _ids_at(pages: Pages, index: Index, size: int):
    """Return what reads the ids of rows at slots: of a few candidates, not of all slots."""

    def ids_at(rows, slots):
        at = rows[:, None], slots // size
        return index.lists.at[pages.node[at], pages.number[at] * size + slots % size].get(
            mode="clip"
        )

    return ids_at


def best(
    expand: Callable, last: jax.Array, *, k: int, num_users: int, most: int, block: int
) -> tuple[jax.Array, jax.Array]:
    """Return the k best of what the visited nodes list, ranked a block of pages at a time.

    So many scores are held and ranked as the budget asks for, not as many as `max_beam` allows.

    Args:
      expand: expand(first page, number of pages) -> `Candidates`.
      last: int32 [], pages of the longest beam.
      k, num_users: static.
      most, block: static; pages that a beam may have, pages of a block.

    Returns:
      (ids int32 [B, k], scores float [B, k]).
    """
    if most <= block:
        found = expand(0, most)
        return top_k(found.scores, found.ids, k=k)

    def join(carry):
        first, ids, scores = carry
        found = expand(first, block)
        scores = jnp.concatenate([scores, found.scores], axis=1)
        return first + block, *top_k(scores, _after(ids, found.ids), k=k)

    nothing = jnp.full((num_users, k), -1, jnp.int32), jnp.full((num_users, k), -jnp.inf)
    return jax.lax.while_loop(lambda carry: carry[0] < last, join, (0, *nothing))[1:]


def _after(ids: jax.Array, others: jax.Array | Callable[..., jax.Array]):
    """Return ids [B, k] with others after them, int32 [B, M] or what reads them."""
    if not callable(others):
        return jnp.concatenate([ids, others], axis=1)
    k = ids.shape[1]

    def ids_at(rows, slots):
        of_others = others(rows, jnp.maximum(slots - k, 0))
        return jnp.where(slots < k, ids[rows[:, None], jnp.minimum(slots, k - 1)], of_others)

    return ids_at


def candidates(
    ids: Any, own: jax.Array, *, above: Any = None, ensemble: dict | None = None
) -> Candidates:
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
