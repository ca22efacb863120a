"""NxtPost's two offline metrics: recall within a batch, and hits among the nearest posts.

Neither is a figure to compare systems by: the first ranks among a batch only. `ranking` ranks
the whole catalogue under a protocol.

Shape suffixes: B users, N items, m labels, k best items, D model width.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from nxtpost_jax.arrays import Array
from nxtpost_jax.events.sequences import PAD


@jax.jit
def batch_ranks(scores_BxB: Array, labels_B: Array) -> jax.Array:
    """Rank each row's own label among all distinct labels of the batch.

    A label that several rows share is one candidate, not several, and never a competitor of
    itself. Ties go against the row: an item with the same score ranks before its label.

    Args:
      scores_BxB: f32[B, B], row b's score of the label of row j. Columns of one item must agree.
      labels_B: int32[B], PAD where a row has no label; such a row is no candidate either.

    Returns:
      int32[B], from 1; 0 at rows without a label.
    """
    real_B = labels_B != PAD
    same_BxB = labels_B[:, None] == labels_B[None, :]
    first_B = jnp.argmax(same_BxB, axis=1) == jnp.arange(len(labels_B))
    rivals_BxB = (first_B & real_B)[None, :] & ~same_BxB
    ahead_BxB = rivals_BxB & (scores_BxB >= jnp.diagonal(scores_BxB)[:, None])
    return jnp.where(real_B, 1 + jnp.sum(ahead_BxB, axis=1), 0)


@partial(jax.jit, static_argnames="k")
def batch_recall(scores_BxB: Array, labels_B: Array, *, k: int) -> jax.Array:
    """Compute the share of rows whose label is among the batch's k best: f32[].

    Args as in `batch_ranks`; rows without a label do not count, 0 when there is none.

    Source: NxtPost (arXiv 2202.03645), batch recall@K: the diagonal within its row's top K.
    """
    ranks_B = batch_ranks(scores_BxB, labels_B)
    real_B = ranks_B > 0
    return jnp.sum(real_B & (ranks_B <= k)) / jnp.maximum(jnp.sum(real_B), 1)


@partial(jax.jit, static_argnames="k")
def knn_hits(users_BxD: Array, items_NxD: Array, *, labels_Bxm: Array, k: int) -> jax.Array:
    """Count the distinct next posts of each user among the k items nearest to its vector.

    The index is the whole catalogue, seen items too. The paper's KNN hits@K is the mean of the
    counts over users with a label; the share of users with one hit or more is the mean of
    `hits > 0` over them.

    Args:
      users_BxD: f32[B, D].
      items_NxD: f32[N, D], nearest by inner product: the cosine, for unit vectors.
      labels_Bxm: int32[B, m], the items of the next m events, PAD where there is none.
      k: at most N.

    Returns:
      int32[B], between 0 and min(k, m); -1 for users without a label.

    Source: NxtPost (arXiv 2202.03645), KNN hits@K.
    """
    _, best_Bxk = jax.lax.top_k(users_BxD @ items_NxD.T, k)
    found_Bxk = jnp.any(best_Bxk[:, :, None] == labels_Bxm[:, None, :], axis=2)
    labelled_B = jnp.any(labels_Bxm != PAD, axis=1)
    return jnp.where(labelled_B, jnp.sum(found_Bxk, axis=1), -1)
