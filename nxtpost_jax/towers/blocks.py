"""Causal pre-LN blocks of the user tower, and a dropout that is cheap on CPUs.

Shape suffixes as in `model`: B batch, L positions, P = B L of them, D width, H heads, K head
width, F hidden.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nxtpost_jax.arrays import Array
from nxtpost_jax.towers.relative import Places

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Bias = Callable[[Places, Places], jax.Array]
_STEPS = 256  # a dropout decision takes one random byte
_QUERIES = 64  # queries a chunk of causal attention, at most


class Block(nn.Module):
    """Add an attention branch, then a feed-forward branch, to a residual stream.

    The plain block is the Transformer's with a ReLU feed-forward layer. The gated one scales
    each branch by a sigmoid of the branch's normalised input and uses SwiGLU.

    Attributes:
      num_heads: H, a divisor of D.
      d_ff: F; the gated block takes 2/3 of it, so that both have the same number of weights.
      gated: which block.
      dropout: rate on each branch, 0 outside training.
    """

    num_heads: int
    d_ff: int
    gated: bool
    dropout: float

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, attend: Attend | None = None) -> jax.Array:
        """Map f32[B, L, D] to the same shape.

        Args:
          x_BxLxD: the residual stream.
          attend: from queries, keys and values f32[B, L, H, K] to f32[B, L, H, K];
            `causal_attention` when None.
        """
        shape_BxL = x_BxLxD.shape[:2]
        attention = functools.partial(self._attention, attend or causal_attention, shape_BxL)
        x_PxD = x_BxLxD.reshape(-1, x_BxLxD.shape[-1])  # XLA:CPU is faster on matrices
        for name, branch in (("attention", attention), ("feed_forward", self._feed_forward)):
            h_PxD = nn.LayerNorm(name=f"{name}_norm")(x_PxD)
            y_PxD = dropout(self, branch(h_PxD), self.dropout)
            if self.gated:
                gate = nn.Dense(x_PxD.shape[-1], name=f"{name}_gate")(h_PxD)
                y_PxD *= nn.sigmoid(gate)
            x_PxD += y_PxD
        return x_PxD.reshape(x_BxLxD.shape)

    def _attention(self, attend, shape_BxL, x_PxD):
        D = x_PxD.shape[-1]
        qkv_PxC = nn.Dense(3 * D, name="qkv")(x_PxD)
        q, k, v = (
            part_PxD.reshape(*shape_BxL, self.num_heads, -1)
            for part_PxD in jnp.split(qkv_PxC, 3, axis=-1)
        )
        return nn.Dense(D, name="attention_out")(attend(q, k, v).reshape(-1, D))

    def _feed_forward(self, x_PxD):
        width = x_PxD.shape[-1]
        if not self.gated:
            hidden_PxF = nn.relu(nn.Dense(self.d_ff, name="hidden")(x_PxD))
            return nn.Dense(width, name="feed_forward_out")(hidden_PxF)
        both = nn.Dense(2 * (2 * self.d_ff // 3), name="hidden")(x_PxD)
        linear, gate = jnp.split(both, 2, axis=-1)
        return nn.Dense(width, name="feed_forward_out")(linear * nn.silu(gate))


def causal_attention(
    q_BxLxHxK: Array,
    k_BxLxHxK: Array,
    v_BxLxHxK: Array,
    *,
    bias: Bias | None = None,
    places: Places | None = None,
) -> jax.Array:
    """Attend from each position to itself and earlier ones: f32[B, L, H, K].

    The queries go in chunks, each against the keys up to its last position: of the pairs that
    causality forbids, few are computed.

    Args:
      q_BxLxHxK, k_BxLxHxK, v_BxLxHxK: f32[B, L, H, K].
      bias: from places of queries and of keys to what their logits are raised by.
      places: of the positions, for `bias`.
    """
    L = q_BxLxHxK.shape[1]
    edges = np.linspace(0, L, -(-L // _QUERIES) + 1).astype(int)
    chunks = []
    for start, end in itertools.pairwise(edges):
        visible = jnp.arange(start, end)[:, None] >= jnp.arange(end)[None, :]
        known = (k_BxLxHxK[:, :end], v_BxLxHxK[:, :end])
        raised = None
        if bias is not None and places is not None:
            raised = bias(places.part(start, end), places.part(0, end))
        queries = q_BxLxHxK[:, start:end]
        chunks.append(attention(queries, *known, visible[None, None], bias_BxHxLxM=raised))
    return jnp.concatenate(chunks, axis=1)


def attention(
    q_BxLxHxK: Array,
    k_BxMxHxK: Array,
    v_BxMxHxK: Array,
    visible_BxHxLxM: Array,
    *,
    bias_BxHxLxM: Array | None = None,
) -> jax.Array:
    """Average values under a softmax of q . k / sqrt(K), plus a bias, over the visible positions.

    Args:
      q_BxLxHxK: f32[B, L, H, K].
      k_BxMxHxK, v_BxMxHxK: f32[B, M, H, K].
      visible_BxHxLxM: bool, its axes of that size or 1; at least one True for each query.
      bias_BxHxLxM: f32, its axes of that size or 1; none when None.

    Returns:
      f32[B, L, H, K].
    """
    K = q_BxLxHxK.shape[-1]
    logits_BxHxLxM = jnp.einsum("blhk,bmhk->bhlm", q_BxLxHxK / math.sqrt(K), k_BxMxHxK)
    if bias_BxHxLxM is not None:
        logits_BxHxLxM += bias_BxHxLxM
    logits_BxHxLxM = jnp.where(visible_BxHxLxM, logits_BxHxLxM, -jnp.inf)
    weights_BxHxLxM = jax.nn.softmax(logits_BxHxLxM, axis=-1)
    return jnp.einsum("bhlm,bmhk->blhk", weights_BxHxLxM, v_BxMxHxK)


def dropout(module: nn.Module, x: jax.Array, rate: float) -> jax.Array:
    """Zero a share of the entries and scale the rest up, with the module's "dropout" key.

    The rate is rounded to a multiple of 1/256: one random byte an entry decides, since drawing
    a whole word an entry is a visible share of a training step on a CPU.
    """
    dropped = round(rate * _STEPS)
    if not dropped:
        return x
    *front, width = x.shape
    words = jax.random.bits(module.make_rng("dropout"), (*front, -(-width // 4)), jnp.uint32)
    bytes_ = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(*front, -1)[..., :width]
    return jnp.where(bytes_ >= dropped, x * (_STEPS / (_STEPS - dropped)), 0)
