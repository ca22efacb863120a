"""Residual networks of pre-activation blocks, normalised per image and group of channels.

Group norm and no batch norm: the loss is a function of parameters and batch alone, the same in
training and evaluation, whatever the batch and the mesh.

Shape suffixes: B batch, H rows, W columns, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


def group_norm(channels: int, *, name: str) -> nn.GroupNorm:
    """Normalise groups of at most 8 channels, or all of them where 8 does not divide them."""
    return nn.GroupNorm(num_groups=None, group_size=8 if channels % 8 == 0 else channels, name=name)


class PreActivationBlock(nn.Module):
    """Two convolutions of 3 x 3, each behind norm and ReLU, added to the input.

    Where the block changes the shape, a convolution of 1 x 1 does so on the shortcut.

    Attributes:
      width: C of the result.
      stride: of the first convolution and of the shortcut.

    Source: He et al., Identity Mappings in Deep Residual Networks, 2016 (arXiv 1603.05027).
    """

    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        """Return f32[B, H / stride, W / stride, width]."""
        channels = x_BxHxWxC.shape[-1]
        strides = (self.stride, self.stride)
        h = nn.relu(group_norm(channels, name="norm_1")(x_BxHxWxC))
        shortcut = x_BxHxWxC
        if channels != self.width or self.stride != 1:
            conv = nn.Conv(self.width, (1, 1), strides, use_bias=False, name="shortcut")
            shortcut = conv(h)
        h = nn.Conv(self.width, (3, 3), strides, use_bias=False, name="conv_1")(h)
        h = nn.relu(group_norm(self.width, name="norm_2")(h))
        return shortcut + nn.Conv(self.width, (3, 3), use_bias=False, name="conv_2")(h)


class ResNet(nn.Module):
    """A stem, stages of blocks that double the width and halve the image, mean, linear head.

    Stages (1, 1, 1) are ResNet-8 as CIFAR-10's networks are counted, 6 n + 2 layers.

    Attributes:
      classes: K.
      width: channels of the first stage.
      blocks: their number per stage.
      stem_stride: of the first convolution, 3 x 3.
    """

    classes: int = 10
    width: int = 16
    blocks: Sequence[int] = (1, 1, 1)
    stem_stride: int = 1

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        """Return logits f32[B, K] of f32[B, H, W, C]."""
        strides = (self.stem_stride, self.stem_stride)
        h = nn.Conv(self.width, (3, 3), strides, use_bias=False, name="stem")(x_BxHxWxC)
        for stage, count in enumerate(self.blocks):
            for i in range(count):
                stride = 2 if stage and i == 0 else 1
                block = PreActivationBlock(self.width * 2**stage, stride, name=f"block_{stage}_{i}")
                h = block(h)
        h = nn.relu(group_norm(h.shape[-1], name="norm")(h))
        return nn.Dense(self.classes, name="head")(jnp.mean(h, axis=(1, 2)))
