"""The post tower: content channels, adapted, fused by attention, joined to an id vector.

Shape suffixes: K channels, D model width, C width of a channel, S vectors a set, N items.
"""

from __future__ import annotations

import functools
import operator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from nxtpost_jax.arrays import Array
from nxtpost_jax.events.content import Content, ContentSet, channels, present, present_in_set, take
from nxtpost_jax.towers.config import NxtPostConfig
from nxtpost_jax.towers.similarity import normalise, output


class Dropped(NamedTuple):
    """Hold what a training step leaves out of items, the same wherever it reads them.

    Attributes:
      keep_id: bool[N], whose id vectors are read; None for all.
      draws: f32[N, K], uniform in [0, 1): a channel below the rate is left out; None for none.
    """

    keep_id: jax.Array | None
    draws: jax.Array | None


NOTHING = Dropped(None, None)


class PostTower(nn.Module):
    """Encode posts from their content and, where configured, their ids.

    Each channel has an adapter: a linear map plus an MLP. A set of vectors is first brought to
    one by a shared MLP on each and their mean (Deep Sets, Zaheer et al. 2017), which the adapter
    then reads. Several channels are averaged under attention weights, the softmax over an item's
    present channels of a learned score of each adapted channel.
    """

    config: NxtPostConfig
    num_items: int | None

    @nn.compact
    def __call__(
        self, content: Content, item_ids: Array | None, dropped: Dropped = NOTHING
    ) -> jax.Array:
        if content is None and not self.config.id_embedding:
            raise ValueError("content: expected a matrix when id_embedding is off, found None")
        parts = []
        if content is not None:
            draws = None if item_ids is None else take(dropped.draws, item_ids)
            parts.append(self._content_vectors(channels(content), draws))
        if self.config.id_embedding:
            # With content an id starts at zero: an item never trained on is its content exactly.
            start = nn.initializers.zeros if parts else nn.initializers.normal(0.02)
            shape = (self.num_items, self.config.d_model)
            table_NxD = self.param("id_embedding", start, shape)
            if item_ids is not None:
                parts.append(_id_vectors(table_NxD, item_ids, dropped.keep_id))
        return output(functools.reduce(operator.add, parts), self.config.similarity)

    def _content_vectors(self, named, draws):
        if len(named) == 1:  # its parameters carry no channel's name
            (channel,) = named.values()
            return self._adapt(channel, "")
        adapted = [self._adapt(channel, f"{name}_") for name, channel in named.items()]
        scores = [nn.Dense(1, name=f"{name}_score")(x) for name, x in zip(named, adapted)]
        there = jnp.stack([present(channel) for channel in named.values()], -1)
        if draws is not None:
            there = kept_channels(there, draws, rate=self.config.channel_dropout)
        return fuse(jnp.stack(adapted, -2), jnp.stack(scores, -2), there[..., None])

    def _adapt(self, channel, prefix):
        width = self.config.d_model
        if isinstance(channel, ContentSet):
            x = self._pool_set(channel, prefix)
        else:
            x = normalise(channel)
        hidden = nn.gelu(nn.Dense(2 * width, name=f"{prefix}adapter_hidden")(x))
        skip = nn.Dense(width, use_bias=False, name=f"{prefix}adapter_skip")(x)
        adapted = skip + nn.Dense(width, name=f"{prefix}adapter_out")(hidden)
        # An item without content is its id alone, not the adapter's biases.
        return jnp.where(present(channel)[..., None], adapted, 0)

    def _pool_set(self, channel, prefix):
        width = self.config.d_model
        there = present_in_set(channel)[..., None]
        x = normalise(jnp.where(there, channel.vectors, 0))
        hidden = nn.gelu(nn.Dense(2 * width, name=f"{prefix}set_hidden")(x))
        out = jnp.where(there, nn.Dense(width, name=f"{prefix}set_out")(hidden), 0)
        return jnp.sum(out, axis=-2) / jnp.maximum(jnp.sum(there, axis=-2), 1)


def fuse(vectors_KxD: Array, scores_Kx1: Array, present_Kx1: Array) -> jax.Array:
    """Average K vectors under a softmax of the scores of those present; zeros if none is.

    Args:
      vectors_KxD: f32[..., K, D].
      scores_Kx1: f32[..., K, 1].
      present_Kx1: bool[..., K, 1].

    Returns:
      f32[..., D].
    """
    scores_Kx1 = jnp.where(present_Kx1, scores_Kx1, -jnp.inf)
    top = jnp.max(scores_Kx1, axis=-2, keepdims=True)
    top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0))
    weights_Kx1 = jnp.exp(scores_Kx1 - top)
    total = jnp.sum(weights_Kx1, axis=-2)
    return jnp.sum(weights_Kx1 * vectors_KxD, axis=-2) / jnp.maximum(total, 1e-12)


def kept_channels(present_K: jax.Array, draws_K: jax.Array, *, rate: float) -> jax.Array:
    """Leave out channels that were drawn below a rate, but not the last one that is present.

    Args:
      present_K: bool[..., K].
      draws_K: f32[..., K], uniform in [0, 1).
      rate: the share left out.

    Returns:
      bool[..., K].
    """
    highest = jnp.max(jnp.where(present_K, draws_K, -1), axis=-1, keepdims=True)
    return present_K & ((draws_K >= rate) | (draws_K == highest))


def _id_vectors(table_NxD, item_ids, keep_id):
    known = (item_ids >= 0) & (item_ids < table_NxD.shape[0])
    rows = jnp.clip(item_ids, 0, table_NxD.shape[0] - 1)
    if keep_id is not None:
        known &= keep_id[rows]
    return jnp.where(known[..., None], jnp.take(table_NxD, rows, axis=0), 0)
