"""Balanced soft assignment by Sinkhorn-Knopp iterations."""

import jax
import jax.numpy as jnp


def sinkhorn(logits: jax.Array, *, iterations: int, weights: jax.Array | None = None) -> jax.Array:
    """Scale exp(logits) so that rows sum to 1 and every column holds the same share of them.

    In the log domain, by potentials g of the columns alone: a = softmax_k(logits + g), where
    each iteration moves g_k by the log of what column k lacks. After no iteration this is the
    softmax; rows are exact after any number, columns in the limit.

    Args:
      logits: float [B, K].
      iterations: static, >= 0.
      weights: optional float [B], the share of each row in the columns; 0 for padding.

    Returns:
      float [B, K].

    Source: Cuturi 2013, "Sinkhorn distances"; for codes as in Caron et al. 2020 (SwAV).
    """
    rows, num_nodes = logits.shape
    weights = jnp.ones(rows, logits.dtype) if weights is None else weights
    # A row of padding has log weight -inf; maximum keeps the gradient of the log finite.
    log_weights = jnp.log(jnp.maximum(weights / jnp.maximum(jnp.sum(weights), 1e-9), 1e-30))[
        :, None
    ]
    g_K = jnp.zeros(num_nodes, logits.dtype)
    for _ in range(iterations):
        log_a = jax.nn.log_softmax(logits + g_K[None, :], axis=1)
        g_K -= jax.nn.logsumexp(log_a + log_weights, axis=0) + jnp.log(float(num_nodes))
    return jax.nn.softmax(logits + g_K[None, :], axis=1)
