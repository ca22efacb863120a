"""LTI as the index experiments set it up."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.harness.run_folder import Run
from experiments.retrieval.searchers import Array
from hsnn_jax.nodes.fit import fit_index
from hsnn_jax.nodes.kmeans import kmeans
from hsnn_jax.nodes.lti import LTIConfig


def lti_config(*, nodes: int, steps: int, **changes: Any) -> LTIConfig:
    """Configure LTI with a warm-up over the first tenth of the steps; `changes` go over it."""
    config = LTIConfig(num_nodes=nodes, total_steps=steps, warmup_steps=steps // 10)
    return dataclasses.replace(config, **changes)


def learned_nodes(
    user_vectors: Array,
    item_vectors: Array,
    *,
    positives: np.ndarray,
    nodes: int,
    steps: int,
    rate: float,
    seed: int,
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


def log_learning(run: Run, metrics: Iterable[Mapping[str, float]], *, stage: str) -> None:
    """Log the records of `fit_index`, each with its step; those of a stopped run give way."""
    run.truncate_metrics(stage, after_step=0)
    for record in metrics:
        figures = {name: value for name, value in record.items() if name != "step"}
        run.log(stage, int(record["step"]), **figures)
