"""LTI as the index experiments set it up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hsnn_jax.nodes.fit import fit_index
from hsnn_jax.nodes.kmeans import kmeans
from hsnn_jax.nodes.lti import LTIConfig


def lti_config(*, nodes: int, steps: int, **changes) -> LTIConfig:
    """Configure LTI with a warm-up over the first tenth of the steps; `changes` go over it."""
    fields = {"num_nodes": nodes, "total_steps": steps, "warmup_steps": steps // 10}
    return LTIConfig(**(fields | changes))


def learned_nodes(
    user_vectors, item_vectors, positives, *, nodes: int, steps: int, rate: float, seed: int
) -> dict[str, np.ndarray]:
    """Learn nodes by k-means, and by LTI from them: float32 [K, d] each.

    Args:
      user_vectors: float32 [P, d], of training pairs.
      item_vectors: float32 [n, d].
      positives: int [P], the items of the pairs.
      nodes: K, at most a quarter of the items.
      steps, rate: of LTI by Adam.
      seed: of both.
    """
    key = jax.random.key(seed)
    nodes = min(nodes, len(item_vectors) // 4)
    fitted = fit_index(
        user_vectors,
        item_vectors,
        positives=positives,
        tx=optax.adam(rate),
        config=lti_config(nodes=nodes, steps=steps),
        key=key,
        telemetry_every=steps,
    )
    means = kmeans(jnp.asarray(item_vectors), nodes, key=key)
    return {"k-means": np.asarray(means), "LTI": np.asarray(fitted.params["nodes"])}
