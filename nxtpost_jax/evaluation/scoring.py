"""Jitted functions from histories to scores and to the best items."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from nxtpost_jax.arrays import Array
from nxtpost_jax.evaluation.ranking import ScoresFn, best_of_scores
from nxtpost_jax.events.content import Content, take
from nxtpost_jax.events.trends import Trends
from nxtpost_jax.towers.model import NxtPost, apply, count_items


@partial(jax.jit, static_argnums=0)
def encode_catalogue(model: NxtPost, params: Any, *, content: Content = None) -> jax.Array:
    """Encode every item: f32[N, D], N rows of content, or all ids without content."""
    ids_N = jnp.arange(count_items(model, content))
    return apply(model, params, content, ids_N, method="encode_items")


@partial(jax.jit, static_argnums=0)
def user_vectors(
    model: NxtPost,
    params: Any,
    *,
    item_vectors_NxD: Array,
    histories: Mapping[str, Array],
) -> jax.Array:
    """Encode each history by its pooled states: f32[B, D].

    Args:
      model, params: the towers.
      item_vectors_NxD: f32[N, D] of `encode_catalogue`.
      histories: dict of `sequences.pad_histories`; an empty one is its static features alone.
    """
    items_BxL = histories["items"]
    vectors_BxLxD = take(item_vectors_NxD, items_BxL)
    states_BxLxD = apply(model, params, histories, vectors_BxLxD, method="encode_histories")
    return apply(model, params, states_BxLxD, items_BxL, method="pool")


@partial(jax.jit, static_argnums=0)
def cosine_scores(
    model: NxtPost,
    params: Any,
    item_vectors_NxD: Array,
    histories: Mapping[str, Array],
) -> jax.Array:
    """Score every item for each history: f32[B, N], see `item_scores`."""
    return item_scores(
        user_vectors(model, params, item_vectors_NxD=item_vectors_NxD, histories=histories),
        item_vectors_NxD,
    )


def item_scores(vectors_BxD: Array, item_vectors_NxD: Array) -> jax.Array:
    """Compare users (or items) with items by cosine, or inner product: f32[B, N].

    An item of which nothing is known, neither content nor a trained id, has a vector of zeros. It
    scores -inf, so that no search finds it and as a target it ranks last; its 0 would else beat
    every item that a user dislikes.
    """
    known_N = jnp.any(item_vectors_NxD != 0, axis=1)
    return jnp.where(known_N[None], vectors_BxD @ item_vectors_NxD.T, -jnp.inf)


@partial(jax.jit, static_argnames=("model", "k"))
def top_items(
    model: NxtPost,
    params: Any,
    *,
    item_vectors_NxD: Array,
    histories: Mapping[str, Array],
    left_out_BxS: Array,
    allowed_N: Array | None = None,
    k: int,
) -> tuple[jax.Array, jax.Array]:
    """Find each history's k items of the highest cosine.

    Args:
      model, params, item_vectors_NxD, histories: see `user_vectors`.
      left_out_BxS, allowed_N, k: see `ranking.best_of_scores`.

    Returns:
      ids int32[B, k], the best first, PAD where fewer than k items are left, and their cosines
      f32[B, k], -inf at PAD.
    """
    scores_BxN = cosine_scores(model, params, item_vectors_NxD, histories)
    return best_of_scores(scores_BxN, left_out_BxS, allowed_N=allowed_N, k=k)


def model_scores(
    model: NxtPost, params: Any, *, content: Content = None, trends: Trends | None = None
) -> ScoresFn:
    """Build the `scores_fn` of `ranking.evaluate` for a trained model.

    Encodes the catalogue once. Building it again for other parameters traces nothing anew.

    Args:
      model, params: the towers.
      content: of all items, or None.
      trends: for a model that reads them, the events that count; those before the step of a query
        do. The function then reads `query_times` of its batch: pass them to `ranking.evaluate`.

    Raises:
      ValueError: the model reads trends and there are none, or the other way round.
    """
    if model.config.trends != (trends is not None):
        found = "none" if trends is None else "some"
        raise ValueError(f"trends: expected those that the model reads, if any, found {found}")
    vectors_NxD = encode_catalogue(model, params, content=content)
    scores = partial(cosine_scores, model, params, vectors_NxD)
    return scores if trends is None else partial(_raised_scores, scores, model, params, trends)


def _raised_scores(scores, model: NxtPost, params, trends: Trends, histories) -> jax.Array:
    if "query_times" not in histories:
        raise ValueError("query_times: expected them in the call of evaluate, found none")
    rest = {name: column for name, column in histories.items() if name != "query_times"}
    scores_BxN = scores(rest)
    table = trends.table(histories["query_times"], scores_BxN.shape[1])
    known_3xBxN = table.known_3xMxN[:, table.moments(histories["query_times"])]
    return scores_BxN + raised_by(model, params, known_3xBxN)


@partial(jax.jit, static_argnums=0)
def raised_by(model: NxtPost, params: Any, known: Array) -> jax.Array:
    """Say what scores are raised by for what is known of items, see `NxtPost.raised`: f32[...]."""
    return apply(model, params, known, method="raised")
