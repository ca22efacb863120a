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

EXPANSION = 4  # channels behind a bottleneck over those inside


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


class BottleneckBlock(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1, each behind norm and ReLU, added to the input.

    Attributes:
      width: C inside; the result has `EXPANSION` times as many channels.
      stride: of the 3 x 3 convolution and of the shortcut.

    Source: as `PreActivationBlock`; the stride stands at the 3 x 3 convolution, as is common.
    """

    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        """Return f32[B, H / stride, W / stride, 4 width]."""
        channels, wide = x_BxHxWxC.shape[-1], EXPANSION * self.width
        strides = (self.stride, self.stride)
        h = nn.relu(group_norm(channels, name="norm_1")(x_BxHxWxC))
        shortcut = x_BxHxWxC
        if channels != wide or self.stride != 1:
            shortcut = nn.Conv(wide, (1, 1), strides, use_bias=False, name="shortcut")(h)
        h = nn.Conv(self.width, (1, 1), use_bias=False, name="conv_1")(h)
        h = nn.relu(group_norm(self.width, name="norm_2")(h))
        h = nn.Conv(self.width, (3, 3), strides, use_bias=False, name="conv_2")(h)
        h = nn.relu(group_norm(self.width, name="norm_3")(h))
        return shortcut + nn.Conv(wide, (1, 1), use_bias=False, name="conv_3")(h)


class ResNet(nn.Module):
    """A stem, stages of blocks that double the width and halve the image, mean, linear head.

    Stages (1, 1, 1) are ResNet-8 as CIFAR-10's networks are counted, 6 n + 2 layers; stages
    (3, 4, 6, 3) of bottlenecks behind the large stem are ResNet-50.

    Attributes:
      classes: K.
      width: channels of the first stage.
      blocks: their number per stage.
      stem_stride: of the first convolution, 3 x 3.
      bottleneck: whether blocks are `BottleneckBlock`.
      large_stem: 7 x 7 at stride 2 and a maximum over 3 x 3 at stride 2, for large images, in place
        of 3 x 3.
    """

    classes: int = 10
    width: int = 16
    blocks: Sequence[int] = (1, 1, 1)
    stem_stride: int = 1
    bottleneck: bool = False
    large_stem: bool = False

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        """Return logits f32[B, K] of f32[B, H, W, C]."""
        side, stride = (7, 2) if self.large_stem else (3, self.stem_stride)
        stem = nn.Conv(self.width, (side, side), (stride, stride), use_bias=False, name="stem")
        h = stem(x_BxHxWxC)
        if self.large_stem:
            h = nn.max_pool(h, (3, 3), (2, 2), padding="SAME")
        make_block = BottleneckBlock if self.bottleneck else PreActivationBlock
        for stage, count in enumerate(self.blocks):
            for i in range(count):
                stride = 2 if stage and i == 0 else 1
                h = make_block(self.width * 2**stage, stride, name=f"block_{stage}_{i}")(h)
        h = nn.relu(group_norm(h.shape[-1], name="norm")(h))
        return nn.Dense(self.classes, name="head")(jnp.mean(h, axis=(1, 2)))
