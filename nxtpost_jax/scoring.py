"""Jitted functions from histories to scores and to the best items."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from nxtpost_jax.model import NxtPost, last_states
from nxtpost_jax.ranking import ScoresFn
from nxtpost_jax.sequences import PAD


@partial(jax.jit, static_argnums=0)
def encode_catalogue(model: NxtPost, params, content=None):
    """Encode every item: f32[N, D], N rows of content, or all ids without content."""
    num_items = model.num_items if content is None else content.shape[0]
    ids_N = jnp.arange(num_items)
    return model.apply({"params": params}, content, ids_N, method="encode_items")


@partial(jax.jit, static_argnums=0)
def user_vectors(model: NxtPost, params, item_vectors_NxD, histories):
    """Encode each history by its last state: f32[B, D].

    Args:
      model, params: the towers.
      item_vectors_NxD: f32[N, D] of `encode_catalogue`.
      histories: dict of `sequences.pad_histories`, none empty.
    """
    items_BxL = histories["items"]
    vectors_BxLxD = jnp.take(item_vectors_NxD, jnp.maximum(items_BxL, 0), axis=0, mode="clip")
    states_BxLxD = model.apply(
        {"params": params}, histories, vectors_BxLxD, method="encode_histories"
    )
    return last_states(states_BxLxD, items_BxL)


@partial(jax.jit, static_argnums=0)
def cosine_scores(model: NxtPost, params, item_vectors_NxD, histories):
    """Score every item for each history by cosine: f32[B, N]."""
    return user_vectors(model, params, item_vectors_NxD, histories) @ item_vectors_NxD.T


@partial(jax.jit, static_argnames=("model", "k"))
def top_items(model: NxtPost, params, item_vectors_NxD, histories, left_out_BxS, *, k: int):
    """Find each history's k items of the highest cosine.

    Args:
      model, params, item_vectors_NxD, histories: see `user_vectors`.
      left_out_BxS: int32[B, S], items never returned, PAD elsewhere.
      k: at most N.

    Returns:
      ids int32[B, k], the best first, PAD where fewer than k items are left, and their cosines
      f32[B, k], -inf at PAD.
    """
    scores_BxN = cosine_scores(model, params, item_vectors_NxD, histories)
    rows_Bx1 = jnp.arange(len(scores_BxN))[:, None]
    beyond = scores_BxN.shape[1]
    columns_BxS = jnp.where(left_out_BxS == PAD, beyond, left_out_BxS)
    scores_BxN = scores_BxN.at[rows_Bx1, columns_BxS].set(-jnp.inf, mode="drop")
    best_Bxk, ids_Bxk = jax.lax.top_k(scores_BxN, k)
    return jnp.where(jnp.isneginf(best_Bxk), PAD, ids_Bxk), best_Bxk


def model_scores(model: NxtPost, params, content=None) -> ScoresFn:
    """Build the `scores_fn` of `ranking.evaluate` for a trained model.

    Encodes the catalogue once. Building it again for other parameters traces nothing anew.
    """
    return partial(cosine_scores, model, params, encode_catalogue(model, params, content))
