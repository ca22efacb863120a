"""What attention knows of two events: how many lie between, and how much time.

Shape suffixes: B batch, L positions of queries, M of keys, H heads.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from nxtpost_jax.arrays import Array

_BUCKETS = 32  # powers of two of a second: the last one is 68 years


class Places(NamedTuple):
    """Say where events stand in their histories; B may be 1 where all rows agree.

    Attributes:
      positions_BxL: int32, counted from the oldest event that is read.
      seconds_BxL: uint32, whole seconds since that event; None where times are not read.
    """

    positions_BxL: Array
    seconds_BxL: Array | None

    def part(self, start: int, end: int) -> Places:
        """Take some columns."""
        seconds = self.seconds_BxL
        return Places(
            self.positions_BxL[:, start:end], None if seconds is None else seconds[:, start:end]
        )


def whole_seconds(gaps: Array) -> jax.Array:
    """Round gaps between events, f32 seconds, to uint32.

    Their sums are exact, so a history read event by event has the times of one that is read whole,
    and differences are right for 136 years, though sums may wrap.
    """
    return jnp.round(jnp.maximum(gaps, 0)).astype(jnp.uint32)


class RelativeBias(nn.Module):
    """Add to attention logits a learned number per head for the distance of two events.

    All begin at 0. After HSTU (arXiv 2402.17152), whose table of times has powers of two as well.

    Attributes:
      num_heads: H.
      num_positions: how many distances between positions there are; 0 leaves positions out.
      times: whether the time between two events counts.
    """

    num_heads: int
    num_positions: int
    times: bool

    @nn.compact
    def __call__(self, queries: Places, keys: Places) -> jax.Array:
        """Give f32[B, H, L, M]; what it holds for keys after their query is of no meaning."""
        bias_BxLxMxH = jnp.zeros((1, 1, 1, self.num_heads))
        if self.num_positions:
            between_BxLxM = queries.positions_BxL[:, :, None] - keys.positions_BxL[:, None, :]
            bias_BxLxMxH += self._numbers("positions", self.num_positions, between_BxLxM)
        if self.times:
            assert queries.seconds_BxL is not None and keys.seconds_BxL is not None
            between_BxLxM = queries.seconds_BxL[:, :, None] - keys.seconds_BxL[:, None, :]
            bias_BxLxMxH += self._numbers("times", _BUCKETS, _bucket(between_BxLxM))
        return jnp.moveaxis(bias_BxLxMxH, -1, 1)

    def _numbers(self, name, size, at):
        table = self.param(name, nn.initializers.zeros, (size, self.num_heads))
        return jnp.take(table, at, axis=0, mode="clip")


def _bucket(seconds):
    """Number the powers of two: 0 for 0 s, 1 for 1 and 2 s, 2 for 3 to 6 s and so on.

    By whole numbers: a logarithm of another compiled program may fall on the other side.
    """
    return _BUCKETS - 1 - jax.lax.clz(seconds + 1).astype(jnp.int32)
