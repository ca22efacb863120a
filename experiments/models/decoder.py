"""A causal Transformer whose layers are one stack of parameters: a program of one layer, any depth.

The layers run in a scan, each recomputed in the backward pass, so that neither the size of the
program nor what it saves of a layer's inside grows with the depth.

Shape suffixes: B batch, L positions, D width, V vocabulary.
"""

from __future__ import annotations

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec


class Layer(nn.Module):
    """Add attention, then a feed-forward layer of 4 D, to a residual stream.

    Attributes:
      heads: attention heads, a divisor of D.
      axis: see `Decoder`.
    """

    heads: int
    axis: str | None

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
        """Return f32[B, L, D], and nothing for the scan to stack."""
        width = x_BxLxD.shape[-1]
        h_BxLxD = nn.LayerNorm(name="attention_norm")(x_BxLxD)
        attention = nn.MultiHeadDotProductAttention(self.heads, name="attention")
        x_BxLxD += attention(h_BxLxD, mask=mask)
        x_BxLxD = by_rows(x_BxLxD, self.axis)
        h_BxLxD = nn.LayerNorm(name="feed_forward_norm")(x_BxLxD)
        h_BxLxD = nn.gelu(nn.Dense(4 * width, name="up")(h_BxLxD))
        x_BxLxD += nn.Dense(width, name="down")(h_BxLxD)
        return by_rows(x_BxLxD, self.axis), None


class Decoder(nn.Module):
    """Predict the next token at every position.

    The leaves below "layers" have the depth as their first axis
    (`shampoo_jax.dimension_numbers.stacked("layers")`).

    Attributes:
      vocabulary: V.
      width: D.
      layers: their number.
      heads: attention heads, a divisor of D.
      length: the longest input.
      axis: of the mesh in context, over which activations keep the batch dealt. Without it, the
        compiler lets parameters in parts decide where activations lie, and holds whole batches.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    length: int
    axis: str | None = None

    @nn.compact
    def __call__(self, tokens_BxL: jax.Array) -> jax.Array:
        """Return logits f32[B, L, V] for int32[B, L]."""
        x_BxLxD = nn.Embed(self.vocabulary, self.width, name="tokens")(tokens_BxL)
        start = nn.initializers.normal(0.02)
        positions = self.param("positions", start, (self.length, self.width))
        x_BxLxD += positions[None, : tokens_BxL.shape[1]]
        x_BxLxD = by_rows(x_BxLxD, self.axis)
        stack = nn.scan(
            nn.remat(Layer, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]  # flax types it as int
            length=self.layers,
        )
        x_BxLxD, _ = stack(self.heads, self.axis, name="layers")(
            x_BxLxD, nn.make_causal_mask(tokens_BxL)
        )
        x_BxLxD = nn.LayerNorm(name="norm")(x_BxLxD)
        return by_rows(nn.Dense(self.vocabulary, use_bias=False, name="head")(x_BxLxD), self.axis)


def by_rows(x: jax.Array, axis: str | None) -> jax.Array:
    """Deal the first dimension over an axis of the mesh in context; None leaves it as it is."""
    if axis is None:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axis))
