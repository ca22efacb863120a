"""NxtPost: a post tower over content embeddings and a causal user tower over posts.

Shape suffixes: B batch, L positions, D model width, C content width, N items, H heads, K head
width, F hidden width of the feed-forward layer.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from nxtpost_jax.blocks import Block, dropout
from nxtpost_jax.sequences import PAD

_GAP_BUCKETS = 32  # powers of two of a second: the last one is 68 years


@dataclasses.dataclass(frozen=True)
class NxtPostConfig:
    """Configure both towers.

    Attributes:
      d_model: width of the towers and of the vectors they give.
      num_layers: blocks of the user tower.
      num_heads: attention heads, a divisor of d_model.
      d_ff: hidden width of a block's feed-forward layer; 4 d_model when None.
      max_len: the longest history the user tower reads.
      dropout: rate on the user tower's input and on every branch of a block.
      block: "transformer" (pre-LN, ReLU) or "gated" (pre-LN, sigmoid-gated branches, SwiGLU).
      id_embedding: add a learned vector an item to its adapted content.
      id_dropout: share of the items whose id vector is left out of a training step, so that
        items without one are served by the same model; unused without content.
      temperature: divides the cosine between user and item (1 / s in the paper).
      time_features: add an embedding of the time since the previous event, where there are times.
      num_actions: size of the action embedding, 0 for none.

    Raises:
      ValueError: a value is out of range.
    """

    d_model: int = 64
    num_layers: int = 2
    num_heads: int = 1
    d_ff: int | None = None
    max_len: int = 200
    dropout: float = 0.1
    block: Literal["transformer", "gated"] = "gated"
    id_embedding: bool = False
    id_dropout: float = 0.1
    temperature: float = 0.05
    time_features: bool = True
    num_actions: int = 0

    def __post_init__(self):
        for name in ("d_model", "num_layers", "num_heads", "max_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        for name in ("dropout", "id_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a rate in [0, 1), found {getattr(self, name)}")
        if self.d_model % self.num_heads:
            raise ValueError(
                f"num_heads: expected a divisor of d_model={self.d_model}, found {self.num_heads}"
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature: expected above 0, found {self.temperature}")
        if self.block not in ("transformer", "gated"):
            raise ValueError(f"block: expected 'transformer' or 'gated', found {self.block!r}")


class NxtPost(nn.Module):
    """Score posts for users by the cosine of two towers' vectors.

    The content matrix is an argument of every method, never a parameter: the catalogue may
    change between two calls. Its row i belongs to item i. Without content (None) items are
    known by id only. Items at or beyond `num_items` have no id vector.

    Attributes:
      config: see `NxtPostConfig`.
      num_items: rows of the id embedding; may be None without one.
    """

    config: NxtPostConfig
    num_items: int | None = None

    def setup(self):
        if self.config.id_embedding and self.num_items is None:
            raise ValueError("num_items: expected the number of ids, found None")
        self.post_tower = PostTower(self.config, self.num_items)
        self.user_tower = UserTower(self.config)

    def __call__(self, histories, content=None, *, deterministic: bool = True):
        """Encode users; touches every parameter, for `init`."""
        return self.encode_users(histories, content, deterministic=deterministic)

    def encode_items(self, content, item_ids=None, *, deterministic: bool = True):
        """Encode posts as unit vectors.

        Args:
          content: f32[..., C], one row an item, or None for ids only.
          item_ids: int32[...], the items' ids, or None for items without one.
          deterministic: False in training (needs a "dropout" key).

        Returns:
          f32[..., D], L2-normalised.
        """
        keep_id = None if deterministic else self._draw_kept_ids(content)
        return self.post_tower(content, item_ids, keep_id)

    def encode_users(self, histories, content=None, *, deterministic: bool = True):
        """Encode users at every position of their histories.

        Args:
          histories: dict of `sequences.pad_histories`.
          content: f32[N, C], the catalogue that the histories' ids index, or None.
          deterministic: False in training (needs a "dropout" key).

        Returns:
          f32[B, L, D], L2-normalised: position t has seen the events 0..t and no later one.
        """
        keep_id = None if deterministic else self._draw_kept_ids(content)
        (vectors_BxLxD,) = self._look_up([histories["items"]], content, keep_id)
        return self.user_tower(vectors_BxLxD, histories, deterministic)

    def encode_histories(self, histories, item_vectors_BxLxD):
        """Encode users whose items are encoded already; else as `encode_users`."""
        return self.user_tower(item_vectors_BxLxD, histories, True)

    def encode_training(self, batch, item_ids, content=None):
        """Encode users and the items of `item_ids`, under one draw of dropped ids.

        Args:
          batch: dict of `batches.train_batches`.
          item_ids: sequence of int32 arrays of any shapes (labels, negatives).
          content: f32[N, C] or None.

        Returns:
          f32[B, L, D] and a list of f32[*shape, D], all L2-normalised; at PAD an arbitrary one.
        """
        keep_id = self._draw_kept_ids(content)
        ids = [batch["items"], *item_ids]
        vectors_BxLxD, *others = self._look_up(ids, content, keep_id)
        return self.user_tower(vectors_BxLxD, batch, False), others

    def _draw_kept_ids(self, content):
        config = self.config
        if content is None or not config.id_embedding or not config.id_dropout:
            return None
        key = self.make_rng("dropout")
        return jax.random.bernoulli(key, 1 - config.id_dropout, (self.num_items,))

    def _look_up(self, ids, content, keep_id):
        """Encode the items at arrays of ids, by the cheaper way: shapes decide."""
        num_items = self.num_items if content is None else content.shape[0]
        if num_items <= sum(array.size for array in ids):
            vectors_NxD = self.post_tower(content, jnp.arange(num_items), keep_id)
            return [_rows(vectors_NxD, array) for array in ids]
        contents = [None if content is None else _rows(content, array) for array in ids]
        return [self.post_tower(rows, array, keep_id) for rows, array in zip(contents, ids)]


def _rows(table, ids):
    return jnp.take(table, jnp.maximum(ids, 0), axis=0, mode="clip")


class PostTower(nn.Module):
    """Adapt content embeddings, add id vectors, normalise."""

    config: NxtPostConfig
    num_items: int | None

    @nn.compact
    def __call__(self, content, item_ids, keep_id):
        if content is None and not self.config.id_embedding:
            raise ValueError("content: expected a matrix when id_embedding is off, found None")
        parts = []
        if content is not None:
            parts.append(self._adapt(content))
        if self.config.id_embedding:
            # With content an id starts at zero: an item never trained on is its content exactly.
            start = nn.initializers.zeros if parts else nn.initializers.normal(0.02)
            shape = (self.num_items, self.config.d_model)
            table_NxD = self.param("id_embedding", start, shape)
            if item_ids is not None:
                parts.append(_id_vectors(table_NxD, item_ids, keep_id))
        return normalise(sum(parts))

    def _adapt(self, content):
        x = normalise(content)
        width = self.config.d_model
        hidden = nn.gelu(nn.Dense(2 * width, name="adapter_hidden")(x))
        skip = nn.Dense(width, use_bias=False, name="adapter_skip")(x)
        adapted = skip + nn.Dense(width, name="adapter_out")(hidden)
        # An item without content is its id alone, not the adapter's biases.
        return jnp.where(jnp.any(content != 0, axis=-1, keepdims=True), adapted, 0)


def _id_vectors(table_NxD, item_ids, keep_id):
    known = (item_ids >= 0) & (item_ids < table_NxD.shape[0])
    if keep_id is not None:
        known &= _rows(keep_id, item_ids)
    return jnp.where(known[..., None], _rows(table_NxD, item_ids), 0)


class UserTower(nn.Module):
    """Encode a history of post vectors by a causal Transformer."""

    config: NxtPostConfig

    @nn.compact
    def __call__(self, vectors_BxLxD, histories, deterministic):
        config = self.config
        length = vectors_BxLxD.shape[1]
        if length > config.max_len:
            raise ValueError(f"histories: expected at most {config.max_len} columns, not {length}")
        x_BxLxD = vectors_BxLxD * math.sqrt(config.d_model) + self._positions(length)
        x_BxLxD += self._event_features(histories)
        valid_BxL = histories["items"] != PAD
        x_BxLxD = jnp.where(valid_BxL[..., None], x_BxLxD, 0)
        rate = 0.0 if deterministic else config.dropout
        x_BxLxD = dropout(self, x_BxLxD, rate)
        for layer in range(config.num_layers):
            x_BxLxD = Block(
                num_heads=config.num_heads,
                d_ff=config.d_ff or 4 * config.d_model,
                gated=config.block == "gated",
                dropout=rate,
                name=f"block_{layer}",
            )(x_BxLxD)
        return normalise(nn.LayerNorm(name="norm")(x_BxLxD))

    def _positions(self, length):
        shape = (self.config.max_len, self.config.d_model)
        table_LxD = self.param("positions", nn.initializers.normal(0.02), shape)
        return table_LxD[None, :length]

    def _event_features(self, histories):
        config = self.config
        features = jnp.zeros((1, 1, config.d_model))
        start = nn.initializers.normal(0.02)
        if config.time_features and "times" in histories:
            table = nn.Embed(_GAP_BUCKETS, config.d_model, embedding_init=start, name="gaps")
            features += table(_gap_bucket(histories["times"]))
        if config.num_actions:
            table = nn.Embed(
                config.num_actions, config.d_model, embedding_init=start, name="actions"
            )
            features += table(histories["actions"])
        return features


def _gap_bucket(gaps_BxL):
    """Number the powers of two: 0 for a gap below 1 s, 1 below 3 s, 2 below 7 s and so on."""
    bucket = jnp.floor(jnp.log2(1 + jnp.maximum(gaps_BxL, 0)))
    return jnp.minimum(bucket, _GAP_BUCKETS - 1).astype(jnp.int32)


def normalise(x):
    """Scale the last axis to length 1, with a finite gradient at zero."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))


def last_states(states_BxLxD, items_BxL):
    """Take each row's state at its last event: f32[B, D]."""
    last_B = jnp.maximum(jnp.sum(items_BxL != PAD, axis=1) - 1, 0)
    return jnp.take_along_axis(states_BxLxD, last_B[:, None, None], axis=1)[:, 0]
