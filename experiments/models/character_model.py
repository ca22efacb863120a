"""A causal Transformer over characters, for comparing optimizers.

Shape suffixes: B batch, L positions, D width, V characters.
"""

from __future__ import annotations

import flax.linen as nn
import jax


class CharacterModel(nn.Module):
    """Predict the next character at every position.

    Attributes:
      vocabulary: V.
      width: D.
      layers: number of blocks.
      heads: attention heads, a divisor of the width.
      length: the longest input.
    """

    vocabulary: int
    width: int = 128
    layers: int = 3
    heads: int = 4
    length: int = 64

    @nn.compact
    def __call__(self, characters_BxL: jax.Array) -> jax.Array:
        """Return logits f32[B, L, V] for int32[B, L]."""
        x_BxLxD = nn.Embed(self.vocabulary, self.width, name="characters")(characters_BxL)
        start = nn.initializers.normal(0.02)
        positions = self.param("positions", start, (self.length, self.width))
        x_BxLxD += positions[None, : characters_BxL.shape[1]]
        mask = nn.make_causal_mask(characters_BxL)
        for i in range(self.layers):
            h_BxLxD = nn.LayerNorm(name=f"attention_norm_{i}")(x_BxLxD)
            attention = nn.MultiHeadDotProductAttention(self.heads, name=f"attention_{i}")
            x_BxLxD += attention(h_BxLxD, mask=mask)
            h_BxLxD = nn.LayerNorm(name=f"feed_forward_norm_{i}")(x_BxLxD)
            h_BxLxD = nn.gelu(nn.Dense(4 * self.width, name=f"up_{i}")(h_BxLxD))
            x_BxLxD += nn.Dense(self.width, name=f"down_{i}")(h_BxLxD)
        x_BxLxD = nn.LayerNorm(name="norm")(x_BxLxD)
        return nn.Dense(self.vocabulary, name="head")(x_BxLxD)
