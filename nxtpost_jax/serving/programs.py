"""The compiled functions of requests, and the few shapes that they are compiled for.

A program is compiled once for a number of rows and columns of histories, or of rows and k. So all
of these are padded: rows to powers of two up to `MOST_ROWS`, columns and k to powers of two from
`SHORTEST_ROW` and `FEWEST` on. What a query leaves out is a list of one width per model; where a
query leaves out more, or is allowed items of its own, a mask over all slots says so, which is the
one other program.

Shape suffixes: B queries, L columns, S slots of the base segment, R recent ones, D vector
width, E places of items left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nxtpost_jax.arrays import Array
from nxtpost_jax.evaluation.ranking import best_of_scores
from nxtpost_jax.evaluation.scoring import item_scores
from nxtpost_jax.events.content import take
from nxtpost_jax.towers.model import NxtPost, apply

SHORTEST_ROW = 16  # columns of padded histories, where the model reads as many
MOST_ROWS = 256  # histories a compiled call, so that scores of a large catalogue fit in memory
FEWEST = 16  # items that a search finds at least, however few are asked for


class Items(NamedTuple):
    """Hold what a search reads of a catalogue, on the device.

    Attributes:
      vectors_SxD: f32, by slot of the base segment.
      present_S: bool, where an item is that may be found.
      recent_RxD, recent_present_R: the same of the recent segment, whose slots follow.
    """

    vectors_SxD: Array
    present_S: Array
    recent_RxD: Array
    recent_present_R: Array

    def only(self, allowed: np.ndarray) -> Items:
        """Let only some slots be found, bool[S + R]; all of them hold an item."""
        size = len(self.vectors_SxD)
        return self._replace(present_S=allowed[:size], recent_present_R=allowed[size:])


def power_of_two(count: int) -> int:
    """Round up to a power of two."""
    return 1 << max(count - 1, 0).bit_length()


def rows_up_to(count: int) -> list[int]:
    """List the numbers of rows that calls of up to `count` queries are padded to."""
    most = min(power_of_two(count), MOST_ROWS)
    return [1 << power for power in range(most.bit_length())]


def columns_of(longest: int, max_len: int) -> int:
    """Give the columns that histories are padded to, whose longest has so many events."""
    return min(max_len, max(power_of_two(longest), SHORTEST_ROW))


def padded_k(k: int, num_slots: int) -> int:
    """Give the number of items that a search for k of them finds."""
    return min(max(power_of_two(k), FEWEST), num_slots)


def left_out_width(max_len: int) -> int:
    """Give the number of items that a query leaves out without a mask."""
    return max(power_of_two(max_len), SHORTEST_ROW)


def chunks(count: int) -> Iterator[np.ndarray]:
    """Split range(count) into rows of one call each, filled up to a power of two."""
    for start in range(0, count, MOST_ROWS):
        rows = np.arange(start, min(start + MOST_ROWS, count))
        yield np.resize(rows, power_of_two(len(rows)))


@jax.jit
def vectors_at(items: Items, slots: Array) -> jax.Array:
    """Gather the vectors of items: f32[*slots.shape, D]; at PAD an arbitrary one."""
    size = len(items.vectors_SxD)
    if not len(items.recent_RxD):
        return take(items.vectors_SxD, slots)
    early, late = take(items.vectors_SxD, slots), take(items.recent_RxD, slots - size)
    return jnp.where((slots < size)[..., None], early, late)


@partial(jax.jit, static_argnums=0)
def encoded_users(
    model: NxtPost, params: Any, *, items: Items, histories: Mapping[str, Array]
) -> jax.Array:
    """Encode each history by its pooled states: f32[B, D]; items are named by their slots."""
    slots_BxL = histories["items"]
    vectors_BxLxD = vectors_at(items, slots_BxL)
    states_BxLxD = apply(model, params, histories, vectors_BxLxD, method="encode_histories")
    return apply(model, params, states_BxLxD, slots_BxL, method="pool")


@partial(jax.jit, static_argnames="k")
def nearest(
    vectors_BxD: Array,
    items: Items,
    *,
    left_out_BxE: Array,
    allowed_BxS: Array | None = None,
    raised_S: Array | None = None,
    k: int,
) -> tuple[jax.Array, jax.Array]:
    """Find the k items nearest to each vector, of users or of items.

    Args:
      vectors_BxD, items: the queries and where to look.
      left_out_BxE: int32[B, E], slots that are never returned, PAD elsewhere.
      allowed_BxS: bool[B, S + R], slots that each query may get; all when None.
      raised_S: f32[S + R], what is added to the cosines; nothing when None.
      k: of `padded_k`.

    Returns:
      slots int32[B, k], the best first, PAD where fewer than k items are left, and their scores
      f32[B, k], -inf at PAD.
    """
    segments = (items.vectors_SxD, items.recent_RxD)
    scores_BxS = jnp.concatenate([item_scores(vectors_BxD, part) for part in segments], axis=1)
    if raised_S is not None:
        scores_BxS += raised_S[None]
    present_S = jnp.concatenate([items.present_S, items.recent_present_R])
    if allowed_BxS is not None:
        scores_BxS = jnp.where(allowed_BxS, scores_BxS, -jnp.inf)
    return best_of_scores(scores_BxS, left_out_BxE, allowed_N=present_S, k=k)
