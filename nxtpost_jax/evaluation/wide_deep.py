"""A small Wide & Deep model: the baseline that NxtPost is compared with by batch recall.

Shape suffixes: B rows, L positions, M candidates, C content width, H hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nxtpost_jax.arrays import Array
from nxtpost_jax.events.content import Content, take
from nxtpost_jax.events.sequences import PAD
from nxtpost_jax.towers.model import apply
from nxtpost_jax.towers.pooling import last_states
from nxtpost_jax.training.losses import binary_cross_entropy
from nxtpost_jax.training.negatives import Negatives, allowed


class WideDeep(nn.Module):
    """Score candidates for histories by the sum of a linear and a deep part.

    Wide: a weight for the pair of last item and candidate, hashed into buckets, and one for the
    candidate, which learns what its popularity is worth. Deep: a ReLU network over the mean
    content of the history and the candidate's content; over learned vectors without content.

    Attributes:
      num_items: N.
      num_buckets: weights that all pairs share.
      hidden: widths of the deep part's layers.
      width: of the learned vectors.

    Source: Cheng et al. 2016 (arXiv 1606.07792), Wide & Deep Learning for Recommender Systems.
    """

    num_items: int
    num_buckets: int = 2**16
    hidden: tuple[int, ...] = (64, 32)
    width: int = 32

    @nn.compact
    def __call__(self, items_BxL: Array, candidates_M: Array, content: Content = None) -> jax.Array:
        """Compute the logit of each candidate for each history: f32[B, M].

        Args:
          items_BxL: int32[B, L], left-aligned, PAD at the end.
          candidates_M: int32[M].
          content: f32[N, C] or None.
        """
        if isinstance(content, Mapping):
            raise ValueError("content: expected one matrix or None, found several channels")
        return self._wide(items_BxL, candidates_M) + self._deep(items_BxL, candidates_M, content)

    def _wide(self, items_BxL, candidates_M):
        pairs = self.param("pairs", nn.initializers.zeros, (self.num_buckets,))
        bias_N = self.param("bias", nn.initializers.zeros, (self.num_items,))
        last_Bx1 = last_states(items_BxL[..., None], items_BxL)
        buckets_BxM = hash_pairs(last_Bx1, candidates_M[None, :], self.num_buckets)
        return pairs[buckets_BxM] + take(bias_N, candidates_M)[None, :]

    def _deep(self, items_BxL, candidates_M, content):
        if content is None:
            shape = (self.num_items, self.width)
            content = self.param("vectors", nn.initializers.normal(0.1), shape)
        real_BxLx1 = (items_BxL != PAD)[..., None]
        total_BxC = jnp.sum(jnp.where(real_BxLx1, take(content, items_BxL), 0), axis=1)
        history_BxC = total_BxC / jnp.maximum(jnp.sum(real_BxLx1, axis=1), 1)
        # The first layer over both, a part for each: no array of B x M x 2C is made.
        x_BxMxH = (
            nn.Dense(self.hidden[0], name="history")(history_BxC)[:, None]
            + nn.Dense(self.hidden[0], use_bias=False, name="candidate")(
                take(content, candidates_M)
            )[None]
        )
        for i, width in enumerate(self.hidden[1:]):
            x_BxMxH = nn.Dense(width, name=f"hidden_{i}")(nn.relu(x_BxMxH))
        return nn.Dense(1, name="out")(nn.relu(x_BxMxH))[..., 0]


def hash_pairs(left: Array, right: Array, num_buckets: int) -> jax.Array:
    """Hash pairs of ids from -1 into buckets: int32 of the shape both broadcast to."""
    left, right = (jnp.asarray(x).astype(jnp.uint32) + 1 for x in (left, right))
    mixed = left * jnp.uint32(0x9E3779B1) + right * jnp.uint32(0x85EBCA77)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0xC2B2AE3D)
    return ((mixed ^ (mixed >> 13)) % jnp.uint32(num_buckets)).astype(jnp.int32)


def draw_examples(batch: Mapping[str, Array], key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw one position of each row: its inputs up to there are the history, its label follows.

    Args:
      batch: dict of `batches.train_batches`.
      key: a jax random key.

    Returns:
      items int32[B, L], labels int32[B].
    """
    items_BxL = batch["items"]
    lengths_B = jnp.sum(items_BxL != PAD, axis=1)
    at_B = jax.random.randint(key, lengths_B.shape, 0, jnp.maximum(lengths_B, 1))
    read_BxL = jnp.arange(items_BxL.shape[1])[None, :] <= at_B[:, None]
    labels_Bx1 = jnp.take_along_axis(batch["labels"], at_B[:, None], axis=1)
    return jnp.where(read_BxL, items_BxL, PAD), labels_Bx1[:, 0]


def loss(
    model: WideDeep,
    params: Any,
    batch: Mapping[str, jax.Array],
    content: Content,
    key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Compute the cross entropy of each row's label against the labels of other users.

    Masks are those of the in-batch negatives, see `negatives.allowed`; an example a row is
    drawn by `draw_examples`.

    Returns:
      f32[] and metrics: `loss`.
    """
    items_BxL, labels_B = draw_examples(batch, key)
    logits_BxB = apply(model, params, items_BxL, labels_B, content)
    own_BxS = jnp.concatenate([batch["items"], batch["labels"]], axis=1)
    kept_BxB = allowed(Negatives(labels_B, batch["users"]), batch["users"], own_BxS)
    loss_Bx1 = binary_cross_entropy(jnp.diagonal(logits_BxB)[:, None], logits_BxB, kept_BxB)
    real_B = labels_B != PAD
    value = jnp.sum(jnp.where(real_B, loss_Bx1[:, 0], 0)) / jnp.maximum(jnp.sum(real_B), 1)
    return value, {"loss": value}


@partial(jax.jit, static_argnames="model")
def score_matrix(
    model: WideDeep,
    params: Any,
    *,
    items_BxL: Array,
    labels_B: Array,
    content: Content = None,
) -> jax.Array:
    """Score every row's label for every history, for `batch_metrics.batch_recall`: f32[B, B]."""
    return apply(model, params, items_BxL, labels_B, content)
