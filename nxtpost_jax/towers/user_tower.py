"""The user tower: a causal Transformer over the posts of a history.

Shape suffixes as in `model`: B batch, L positions, D model width.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from nxtpost_jax.arrays import Array
from nxtpost_jax.events.sequences import PAD
from nxtpost_jax.towers.blocks import Block, causal_attention, dropout
from nxtpost_jax.towers.config import NxtPostConfig
from nxtpost_jax.towers.pooling import read_positions
from nxtpost_jax.towers.relative import Places, RelativeBias, whole_seconds
from nxtpost_jax.towers.similarity import output

_GAP_BUCKETS = 32  # powers of two of a second: the last one is 68 years


class UserTower(nn.Module):
    """Encode a history of post vectors.

    An event is its post's vector, scaled by its action's weight, plus (or concatenated with)
    the time since the event before, plus embeddings of its action, its surface, its position
    and the user's static features. A row without events is read as one position that holds
    the user's static features alone.
    """

    config: NxtPostConfig

    @nn.compact
    def __call__(
        self,
        vectors_BxLxD: Array,
        histories: Mapping[str, Array],
        deterministic: bool,
        *,
        positions_BxL: Array | None = None,
        attend: Callable[..., jax.Array] | None = None,
    ) -> jax.Array:
        config = self.config
        length = vectors_BxLxD.shape[1]
        if length > config.max_len:
            raise ValueError(
                f"histories: expected at most {config.max_len} columns, found {length}"
            )
        items_BxL = histories["items"]
        if config.event_dropout and not deterministic:
            share, key = 1 - config.event_dropout, self.make_rng("dropout")
            shown_BxL = jax.random.bernoulli(key, share, items_BxL.shape)
            vectors_BxLxD = jnp.where(shown_BxL[..., None], vectors_BxLxD, 0)
        events_BxLxD = self._events(vectors_BxLxD * math.sqrt(config.d_model), histories)
        x_BxLxD = jnp.where((items_BxL != PAD)[..., None], events_BxLxD, 0)
        x_BxLxD += self._positions(length, positions_BxL) + self._static(histories)
        x_BxLxD = jnp.where(read_positions(items_BxL)[..., None], x_BxLxD, 0)
        rate = 0.0 if deterministic else config.dropout
        x_BxLxD = dropout(self, x_BxLxD, rate)
        attend = attend or _causal(config, histories)
        for layer in range(config.num_layers):
            bias = self._relative_bias(layer)
            x_BxLxD = Block(
                num_heads=config.num_heads,
                d_ff=config.d_ff or 4 * config.d_model,
                gated=config.block == "gated",
                dropout=rate,
                name=f"block_{layer}",
            )(x_BxLxD, functools.partial(attend, layer, bias=bias))
        return output(nn.LayerNorm(name="norm")(x_BxLxD), config.similarity)

    def _relative_bias(self, layer):
        config = self.config
        if config.relative_bias == "none":
            return None
        return RelativeBias(
            config.num_heads,
            num_positions=config.max_len if config.relative_bias != "time" else 0,
            times=config.reads_time_between,
            name=f"relative_bias_{layer}",
        )

    def _positions(self, length, positions_BxL):
        shape = (self.config.max_len, self.config.d_model)
        table_LxD = self.param("positions", nn.initializers.normal(0.02), shape)
        if positions_BxL is None:
            return table_LxD[None, :length]
        return jnp.take(table_LxD, positions_BxL, axis=0, mode="clip")

    def _events(self, x_BxLxD, histories):
        config = self.config
        if config.action_weights is not None:
            weights = jnp.asarray(config.action_weights)
            x_BxLxD *= weights[_column(histories, "actions", "action_weights")][..., None]
        if config.time_features and self.has_variable("params", "gaps"):
            _column(histories, "times", "this model, trained with times,")
        if config.time_features and "times" in histories:
            gaps_BxLxD = self._embed("gaps", _GAP_BUCKETS, _gap_bucket(histories["times"]))
            if config.time_concat:
                both = jnp.concatenate([x_BxLxD, gaps_BxLxD], axis=-1)
                x_BxLxD = nn.Dense(config.d_model, name="time_projection")(both)
            else:
                x_BxLxD += gaps_BxLxD
        for name, size in (("actions", config.num_actions), ("surfaces", config.num_surfaces)):
            if size:
                x_BxLxD += self._embed(name, size, _column(histories, name, f"num_{name}"))
        return x_BxLxD

    def _static(self, histories):
        """Sum the static features' embeddings, f32[B, 1, D]; one outside its vocabulary is 0."""
        sizes = self.config.static_sizes
        total = jnp.zeros((1, 1, self.config.d_model))
        if not sizes:
            return total
        ids_BxG = _column(histories, "static", "static_sizes")
        if ids_BxG.shape[-1] != len(sizes):
            raise ValueError(
                f"histories: expected 'static' of {len(sizes)} columns, found {ids_BxG.shape[-1]}"
            )
        for field, size in enumerate(sizes):
            ids_Bx1 = ids_BxG[:, field : field + 1]
            known_Bx1 = (ids_Bx1 >= 0) & (ids_Bx1 < size)
            vectors = self._embed(f"static_{field}", size, jnp.where(known_Bx1, ids_Bx1, 0))
            total += jnp.where(known_Bx1[..., None], vectors, 0)
        return total

    def _embed(self, name, size, ids):
        start = nn.initializers.normal(0.02)
        return nn.Embed(size, self.config.d_model, embedding_init=start, name=name)(ids)


def places_of(config: NxtPostConfig, histories: Mapping[str, Array]) -> Places | None:
    """Say where the events of whole histories stand; None where the tower does not read it.

    Raises:
      ValueError: there are no times, which the tower reads.
    """
    if config.relative_bias == "none":
        return None
    positions_1xL = jnp.arange(histories["items"].shape[1])[None]
    if not config.reads_time_between:
        return Places(positions_1xL, None)
    gaps_BxL = _column(histories, "times", f"relative_bias={config.relative_bias!r}")
    # No time counts before the first event; padding's places are never read.
    gaps_BxL = jnp.where(positions_1xL == 0, 0, whole_seconds(gaps_BxL))
    return Places(positions_1xL, jnp.cumsum(gaps_BxL, axis=1, dtype=jnp.uint32))


def _causal(config, histories):
    places = places_of(config, histories)

    def attend(layer, q, k, v, *, bias):
        del layer
        return causal_attention(q, k, v, bias=bias, places=places)

    return attend


def _column(histories, name, option):
    if name not in histories:
        raise ValueError(f"histories: expected {name!r}, which {option} reads, found none")
    return histories[name]


def _gap_bucket(gaps_BxL):
    """Number the powers of two: 0 for a gap below 1 s, 1 below 3 s, 2 below 7 s and so on."""
    bucket = jnp.floor(jnp.log2(1 + jnp.maximum(gaps_BxL, 0)))
    return jnp.minimum(bucket, _GAP_BUCKETS - 1).astype(jnp.int32)
