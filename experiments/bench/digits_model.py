"""A multilayer perceptron for small images."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Mlp(nn.Module):
    """Hidden layers with GELU, then one linear layer to the classes."""

    width: int
    depth: int
    classes: int = 10

    @nn.compact
    def __call__(self, x_BxP: jax.Array) -> jax.Array:
        """Map pixels [B, P] in [0, 1] to logits [B, classes], float32."""
        for _ in range(self.depth):
            x_BxP = nn.gelu(nn.Dense(self.width)(x_BxP))
        return nn.Dense(self.classes)(x_BxP).astype(jnp.float32)
