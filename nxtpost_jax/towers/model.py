"""NxtPost: a post tower over content embeddings and a causal user tower over posts.

Shape suffixes: B batch, L positions, D model width, C content width, N items, H heads, K head
width, F hidden width of the feed-forward layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from nxtpost_jax.arrays import Array
from nxtpost_jax.events.content import Content, channels, num_rows, take
from nxtpost_jax.events.trends import KINDS
from nxtpost_jax.towers.config import NxtPostConfig
from nxtpost_jax.towers.pooling import Pooling, last_states
from nxtpost_jax.towers.post_tower import NOTHING, Dropped, PostTower
from nxtpost_jax.towers.trend_prior import TrendPrior
from nxtpost_jax.towers.user_tower import UserTower

__all__ = ["Encoded", "NxtPost", "NxtPostConfig", "apply", "count_items", "last_states"]


class Encoded(NamedTuple):
    """Hold the vectors of one training batch; all of unit length under cosine similarity.

    Attributes:
      states_BxLxD: f32[B, L, D], position t has seen the events 0..t.
      pooled_BxD: f32[B, D], the final representation of each row.
      items: a list of f32[*shape, D], one an array of item ids; at PAD an arbitrary vector.
    """

    states_BxLxD: jax.Array
    pooled_BxD: jax.Array
    items: list[jax.Array]


class NxtPost(nn.Module):
    """Score posts for users by comparing two towers' vectors.

    The content is an argument of every method, never a parameter: the catalogue may change
    between two calls. Its row i belongs to item i; it may be a matrix, or channels and sets as
    `content` describes. Without content (None) items are known by id only. Items at or beyond
    `num_items` have no id vector.

    Attributes:
      config: see `NxtPostConfig`.
      num_items: rows of the id embedding; may be None without one.
    """

    config: NxtPostConfig
    num_items: int | None = None

    def setup(self) -> None:
        if self.config.id_embedding and self.num_items is None:
            raise ValueError("num_items: expected the number of ids, found None")
        self.post_tower = PostTower(self.config, self.num_items)
        self.user_tower = UserTower(self.config)
        self.pooling = Pooling(self.config)
        if self.config.trends:
            self.trend_prior = TrendPrior()

    def __call__(
        self, histories: Mapping[str, Array], content: Content = None, *, deterministic: bool = True
    ) -> jax.Array:
        """Encode users; touches every parameter, for `init`."""
        states_BxLxD = self.encode_users(histories, content, deterministic=deterministic)
        self.pool(states_BxLxD, histories["items"])
        if self.config.trends:
            self.raised(jnp.zeros((len(KINDS), 1), jnp.uint8))
        return states_BxLxD

    def encode_items(
        self, content: Content, item_ids: Array | None = None, *, deterministic: bool = True
    ) -> jax.Array:
        """Encode posts.

        Args:
          content: rows of content, such as f32[..., C], or None for ids only.
          item_ids: int32[...], the items' ids, or None for items without one.
          deterministic: False in training (needs a "dropout" key).

        Returns:
          f32[..., D], L2-normalised under cosine similarity.
        """
        dropped = NOTHING if deterministic else self._draw_dropped(content)
        return self.post_tower(content, item_ids, dropped)

    def encode_users(
        self,
        histories: Mapping[str, Array],
        content: Content = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """Encode users at every position of their histories.

        Args:
          histories: dict of `sequences.pad_histories`; with static features also `static`,
            int32[B, G], -1 where unknown.
          content: the catalogue that the histories' ids index, such as f32[N, C], or None.
          deterministic: False in training (needs a "dropout" key).

        Returns:
          f32[B, L, D]: position t has seen the events 0..t and no later one.
        """
        dropped = NOTHING if deterministic else self._draw_dropped(content)
        (vectors_BxLxD,) = self._look_up([histories["items"]], content, dropped)
        return self.user_tower(vectors_BxLxD, histories, deterministic)

    def encode_histories(
        self,
        histories: Mapping[str, Array],
        item_vectors_BxLxD: Array,
        *,
        positions_BxL: Array | None = None,
        attend: Callable[..., jax.Array] | None = None,
    ) -> jax.Array:
        """Encode users whose items are encoded already; else as `encode_users`.

        Args:
          histories, item_vectors_BxLxD: the events and their posts' vectors.
          positions_BxL: int32[B, L], the places of the columns in the history; 0 to L - 1 when
            None.
          attend: called with layer, queries, keys and values f32[B, L, H, K], and `bias=`, in
            place of `blocks.causal_attention`; how `streaming` reads and writes its cache.
        """
        return self.user_tower(
            item_vectors_BxLxD, histories, True, positions_BxL=positions_BxL, attend=attend
        )

    def pool(self, states_BxLxD: Array, items_BxL: Array) -> jax.Array:
        """Reduce each row's states to its final representation: f32[B, D].

        Args:
          states_BxLxD: of `encode_users` or `encode_histories`.
          items_BxL: int32[B, L], the histories' items: positions at PAD have no weight.
        """
        return self.pooling(states_BxLxD, items_BxL)

    def raised(self, known: Array) -> jax.Array:
        """Say what items' similarities are raised by: f32[...].

        Args:
          known: uint8[3, ...], what is known of each at a moment, see `events.trends`.
        """
        return self.trend_prior(known)

    def encode_batch(
        self,
        batch: Mapping[str, Array],
        item_ids: Sequence[Array],
        *,
        content: Content = None,
        deterministic: bool = False,
    ) -> Encoded:
        """Encode users and the items of `item_ids`, under one draw of what is dropped of them.

        Args:
          batch: dict of `batches.train_batches`.
          item_ids: sequence of int32 arrays of any shapes (labels, negatives).
          content: as in `encode_users`.
          deterministic: True outside training; else needs a "dropout" key.

        Returns:
          `Encoded`.
        """
        dropped = NOTHING if deterministic else self._draw_dropped(content)
        vectors_BxLxD, *items = self._look_up([batch["items"], *item_ids], content, dropped)
        states_BxLxD = self.user_tower(vectors_BxLxD, batch, deterministic)
        return Encoded(states_BxLxD, self.pool(states_BxLxD, batch["items"]), items)

    def _draw_dropped(self, content):
        config, keep_id, draws = self.config, None, None
        if content is not None and config.id_embedding and config.id_dropout:
            assert self.num_items is not None  # `setup` refuses an id embedding without it
            key = self.make_rng("dropout")
            keep_id = jax.random.bernoulli(key, 1 - config.id_dropout, (self.num_items,))
        if config.channel_dropout and len(channels(content)) > 1:
            shape = max(num_rows(content), self.num_items or 0), len(channels(content))
            draws = jax.random.uniform(self.make_rng("dropout"), shape)
        return Dropped(keep_id, draws)

    def _look_up(self, ids, content, dropped):
        """Encode the items at arrays of ids, by the cheaper way: shapes decide."""
        num_items = count_items(self, content)
        if num_items <= sum(array.size for array in ids):
            vectors_NxD = self.post_tower(content, jnp.arange(num_items), dropped)
            return [take(vectors_NxD, array) for array in ids]
        return [self.post_tower(take(content, array), array, dropped) for array in ids]


def count_items(model: NxtPost, content: Content) -> int:
    """Count the items that content describes or, without content, that have an id vector.

    Raises:
      ValueError: there is neither content nor an id embedding.
    """
    if content is not None:
        return num_rows(content)
    if model.num_items is None:
        raise ValueError("content: expected a matrix when id_embedding is off, found None")
    return model.num_items


def apply(model: nn.Module, params: Any, *inputs: Any, **options: Any) -> Any:
    """Call a model by its parameters; options are those of flax's `apply`, such as `method`.

    No call here changes parameters, so the result is what the method gives, never the pair that
    flax types it as too.
    """
    return model.apply({"params": params}, *inputs, **options)
